"""UA, IRA and CRA of UnlearnCanvas (arXiv:2402.11846, section 4): forgotten, and retained.

UA is 1 less the concept's own accuracy; IRA the accuracy of other concepts of its domain, CRA that
of another domain. Each is meant beside the base model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from efface.core import ACROSS, KEPT, PLAIN, Estimate, Row
from efface.outcomes import judged, outcomes
from efface.stats import share


@dataclass(frozen=True)
class Unlearned:
    """UA: share of the concept's prompts that do not show it."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        found = outcomes(rows, PLAIN)
        hits = judged(found)
        return share([not hit for hit in hits], skipped=len(found) - len(hits))


@dataclass(frozen=True)
class Retained:
    """IRA: share of other concepts' prompts that show what they name."""

    of_base: bool = False
    """Of the base model instead."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        return _accuracy(base if self.of_base else rows, KEPT)


@dataclass(frozen=True)
class RetainedAcross:
    """CRA: share of another domain's prompts that show what they name."""

    of_base: bool = False
    """Of the base model instead."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        return _accuracy(base if self.of_base else rows, ACROSS)


def _accuracy(rows: Sequence[Row], kind: str) -> Estimate:
    found = outcomes(rows, kind)
    hits = judged(found)
    return share(hits, skipped=len(found) - len(hits))
