"""Best of k seeds: the prompt as it is, from other noise. The control beside every other attack.

An attack that draws k pictures hits more often than one picture does, whatever it does to the
prompt; what it hits beyond this one at the same number of pictures is its own (efface; the noise
probe of arXiv:2505.17013 is a best of 24 without such a control).

Deviations from the authors' code: none, there is no paper.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict

SEEDS = 2**31


@dataclass(frozen=True)
class Seeds:
    """Other noise for the same prompt."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    k: int = 8
    """Pictures, above 0. More hit by chance alone."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        for _ in range(self.k):
            seed = torch.randint(SEEDS, (), generator=rng)
            yield replace(case, seed=int(seed))


PRESETS = {"small": Seeds(8), "medium": Seeds(24), "paper": Seeds(50)}
