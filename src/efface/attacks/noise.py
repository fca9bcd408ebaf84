"""Noise-based probe: the same prompt and seed, with more and more fresh noise put in at every step.

"When Are Concepts Erased From Diffusion Models?" (arXiv:2505.17013, section on the diffusion
trajectory): an eraser that leads drawings away from the concept may lose them again where noise
throws them off their way. Each drawing is DDIM's with η above 0, its noise multiplied by v (the
formula is in `efface.backbones.churn`). The paper keeps the best of 24; the attack `seeds`, at as
many pictures, is its control, which the paper has not.

Deviations from the authors' code: none in the step. Theirs judges all pictures and keeps the best;
here each is a query, the least noise first. Flows, which theirs does not draw, make the same step
in their own levels.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, EffaceError, Verdict


@dataclass(frozen=True)
class Noise:
    """From the least noise to the most."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    amounts: str = "1 1.17 1.34 1.51 1.68 1.85"
    """η of each query, above 0, in parts of DDPM's noise. Raising it past 1 leaves the noise that
    the model was trained at."""
    scales: str = "1 1.02 1.03 1.04"
    """v, above 0, each tried with each η. Raising it makes pictures rougher in any model."""

    def __post_init__(self) -> None:
        for name in ("amounts", "scales"):
            found = numbers(getattr(self, name))
            if not found or not all(0 < number < math.inf for number in found):
                raise EffaceError(
                    f"noise takes for {name} numbers above 0 with spaces between them: "
                    f"{getattr(self, name)!r} is none of these"
                )

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        for amount in numbers(self.amounts):
            for scale in numbers(self.scales):
                yield replace(case, churn=amount, churn_scale=scale)


def numbers(text: str) -> list[float]:
    """Each once, in their order; none where a word is no number."""
    try:
        return list(dict.fromkeys(float(word) for word in text.split()))
    except ValueError:
        return []


PRESETS = {
    "small": Noise(amounts="1 1.34 1.51 1.85", scales="1 1.04"),
    "medium": Noise(),
    "paper": Noise(),
}
