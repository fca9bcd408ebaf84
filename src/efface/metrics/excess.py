"""What an attack finds beyond as many other seeds: its rate less the best-of-k control's.

Ours. Of roots that neither shows unattacked, paired root by root, at the same number of queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.core import Estimate, Row
from efface.outcomes import outcomes
from efface.stats import difference


@dataclass(frozen=True)
class Excess:
    """Share of roots an attack hits, less that of its control; above 0 it beats luck."""

    attack: str
    """Which attack."""
    control: str = "seeds"
    """Attack that stands for luck."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        attacked, control = outcomes(rows, self.attack), outcomes(rows, self.control)
        most = max((o.queries for o in attacked.values()), default=0)
        ours, theirs, skipped = [], [], 0
        for root, luck in control.items():
            found = attacked.get(root)
            if luck.hit is None or (found is not None and found.hit is None):
                skipped += 1
                continue
            ours.append(found is not None and bool(found.hit))
            theirs.append(luck.at is not None and luck.at <= most)
        return difference(ours, theirs, skipped=skipped)
