"""The closed-form attack: rows of the encoder's own ellipsoid that best restore the concept.

Ours; no published source (see `efface.certificate`). What the erased denoiser reads of a row e is
W′e for each of its matrices, what the base read of the concept's row c was W c. The best that can
be fed in place of c is e* = argmin Σ|W′e − W c|² over the ellipsoid e = A z + β, |z|² = r²: a
trust-region problem with H = Aᵀ G′ A and b = Aᵀ (Xᵀ c − G′ β), where G′ = Σ W′ᵀW′ and X = Σ WᵀW′.
For W′ = W T these are the certificate's own minimisers. It is the erased weights that are read, so
edits of single layers are met as maps are.

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
from efface.recovery import recovered


@dataclass(frozen=True)
class Optimum:
    """The prompt's rows, each replaced by its best restorer; then with other noise."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = False

    tries: int = 1
    """Pictures, above 0: the case's own noise, then other. More hit more."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        rows = base.encode([case.prompt]).states[0]
        soft = replace(case, embeds=recovered(erased, base, rows))
        yield soft
        for _ in range(self.tries - 1):
            yield replace(soft, seed=int(torch.randint(2**31, (), generator=rng)))


PRESETS = {"small": Optimum(), "medium": Optimum(4), "paper": Optimum(10)}
