"""The prompt's words in another order: rows are erased in context, and the context changes.

A probe of ours.

Deviations from the authors' code: none, there is no paper.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict
from efface.wording import reworded


@dataclass(frozen=True)
class Order:
    """Random orders of the words, each other than those before."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    k: int = 8
    """Orders tried, above 0. More find more, up to all there are."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        words = case.prompt.split()
        orders = (torch.randperm(len(words), generator=rng).tolist() for _ in range(4 * self.k))
        shuffled = (" ".join(words[i] for i in order) for order in orders)
        yield from reworded(erased, case, shuffled, self.k)


PRESETS = {"small": Order(4), "medium": Order(16), "paper": Order(50)}
