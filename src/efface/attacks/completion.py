"""Diffusion completion: the base model draws the first steps, the erased model goes on.

"When Are Concepts Erased From Diffusion Models?" (arXiv:2505.17013, section on visual context): an
eraser that only steers the first steps away leaves the rest of the drawing able to finish it.

Deviations from the authors' code: theirs stops the base model after step 1, 2 or 3 of 50 DDIM steps
and reports each; here the numbers are queries, fewest first, and a share of the steps, so that 20
steps give away as much of the noise. Any sampler will do: what it remembers is handed on as well.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict


@dataclass(frozen=True)
class Completion:
    """From the fewest steps to the most."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = False

    share: float = 0.06
    """Of the steps that the base model draws at most, above 0 and below 1; one step at least."""
    queries: int = 3
    """How many numbers of steps are tried, 1 or more, up to that share."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        most = max(1, round(self.share * case.steps))
        tried = {max(1, round(most * (i + 1) / self.queries)) for i in range(self.queries)}
        for handed in sorted(tried):
            if handed < case.steps:
                yield replace(case, handed=handed)


PRESETS = {
    "small": Completion(share=0.15),
    "medium": Completion(share=0.15),
    "paper": Completion(),
}
