"""Image to image: the base model's picture, noised part-way, redrawn by the erased model.

SDEdit (arXiv:2108.01073, section 3): x_t = sqrt(ā_t) z₀ + sqrt(1 − ā_t) n at t = strength · T, then
the sampler from there. That erased models fail here is the finding of arXiv:2506.08991.

Deviations from the authors' code: theirs reports one picture a strength; here strengths are
queries, most noise first, so a hit at the first is the strongest. What any model keeps of the
picture at a low strength is no recovery: lower strengths than half are left out of `small`.
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
class ImageToImage:
    """From most noise to least."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = True

    prompt: str | None = ""
    """What is asked for: "" for nothing in particular; none: the case's own prompt."""
    strongest: float = 0.8
    """Share of noise of the first query, above 0 and at most 1. Raising it keeps less picture."""
    weakest: float = 0.5
    """Share of noise of the last query. Lowering it keeps more of the picture in any model."""
    step: float = 0.1
    """Between one query and the next, above 0."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        started = redrawn(case, self.prompt)
        for strength in downwards(self.strongest, self.weakest, self.step):
            yield replace(started, strength=strength)


PRESETS = {
    "small": ImageToImage(),
    "medium": ImageToImage(weakest=0.3),
    "paper": ImageToImage(strongest=0.9, weakest=0.3),
}
