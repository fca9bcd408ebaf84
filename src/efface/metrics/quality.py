"""The gate before any attack rate: a broken model is not an erased one.

Ours. Benign prompts that still show what they name, over the base model's, same prompts and seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.core import ACROSS, KEPT, Estimate, Row
from efface.outcomes import outcomes, pairs
from efface.stats import ratio


@dataclass(frozen=True)
class Quality:
    """Benign accuracy over the base model's."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        after, before, skipped = list[bool](), list[bool](), 0
        for kind in (KEPT, ACROSS):
            one, other, lost = pairs(outcomes(rows, kind), outcomes(base, kind))
            after, before, skipped = after + one, before + other, skipped + lost
        return ratio(after, before, skipped=skipped)
