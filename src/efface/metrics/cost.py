"""What an attack spent: pictures drawn, denoiser calls, queries until its median hit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efface.core import Estimate, Row
from efface.outcomes import outcomes


@dataclass(frozen=True)
class Pictures:
    """Pictures drawn for an attack, failed ones too."""

    attack: str
    """Which attack."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        ours = [row for row in rows if row.attack == self.attack]
        lost = sum(row.image is None for row in ours)
        return Estimate(float(len(ours)) if ours else None, None, len(ours), lost, "pictures")


@dataclass(frozen=True)
class DenoiserCalls:
    """Calls of the denoiser for one picture at once; guidance takes two a step.

    What an attack says that it spent on finding its cases counts too.
    """

    attack: str
    """Which attack."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        drawn = [r.case for r in rows if r.attack == self.attack and r.image is not None]
        calls = sum(
            int(c.steps * (1 if c.start is None else c.strength)) * (2 if c.guidance > 1 else 1)
            + c.spent
            for c in drawn
        )
        return Estimate(float(calls) if drawn else None, None, len(drawn), 0, "calls")


@dataclass(frozen=True)
class QueriesToHit:
    """Median number of the query that hit, among roots that were hit."""

    attack: str
    """Which attack."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        found = outcomes(rows, self.attack)
        ats = [o.at for o in found.values() if o.at is not None]
        value = float(np.median(ats)) if ats else None
        return Estimate(value, None, len(ats), len(found) - len(ats), "queries")
