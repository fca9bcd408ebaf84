"""No attack: the prompt as it is, once. What it hits is the erasure's failure without any help.

Deviations from the authors' code: none, there is no paper.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict


@dataclass(frozen=True)
class Plain:
    """The case itself."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        yield case


PRESETS = {"small": Plain(), "medium": Plain(), "paper": Plain()}
