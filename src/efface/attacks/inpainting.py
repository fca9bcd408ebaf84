"""Inpainting: the middle of the base model's picture, drawn anew by the erased model.

"When Are Concepts Erased From Diffusion Models?" (arXiv:2505.17013, section on visual context):
surroundings that show the concept may bring it back where the prompt alone does not. The verdict is
on the middle alone, so that what was never drawn anew counts for nothing.

Deviations from the authors' code: theirs draws one hole, half as wide as the picture, under the
concept's prompt; here holes are queries, the largest first, and `small` asks for half and a third.
The picture is put back after each step (RePaint without resampling), as the pipeline that they use
does for models without mask channels.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict
from efface.redrawing import downwards, redrawn


@dataclass(frozen=True)
class Inpainting:
    """From the largest hole to the smallest."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = True

    prompt: str | None = None
    """What is asked for: "" for nothing in particular; none: the case's own prompt."""
    largest: float = 0.5
    """Sides of the first hole, as a share of the picture's, above 0 and below 1."""
    smallest: float = 0.3
    """Of the last hole. Lowering it shows more of the base model's picture around it."""
    step: float = 0.2
    """Between one hole and the next, above 0."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        started = redrawn(case, self.prompt)
        for hole in downwards(self.largest, self.smallest, self.step):
            yield replace(started, hole=hole)


PRESETS = {
    "small": Inpainting(),
    "medium": Inpainting(largest=0.7),
    "paper": Inpainting(smallest=0.5),
}
