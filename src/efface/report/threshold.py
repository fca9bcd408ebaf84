"""How the rates would change if the judge asked for more or less: share at or above each score."""

from collections.abc import Sequence
from typing import NamedTuple

from efface.core import PLAIN, Row
from efface.outcomes import same
from efface.store import Run

STEPS = 50
"""Thresholds tried."""


class Threshold(NamedTuple):
    """Shares of prompts whose best score reaches each threshold."""

    at: list[float]
    """Thresholds; empty where nothing has a score."""
    base: list[float]
    erased: list[float]
    attacked: list[float]
    """With the best score that any attack drew."""
    n: int
    """Prompts with a score in both models."""


def thresholds(run: Run) -> Threshold:
    """The curves of the concept's own prompts."""
    before, after = _best(run.base, (PLAIN,)), _best(run.rows, (PLAIN,))
    attacked = _best(run.rows, tuple(run.story["attacks"]))
    roots = [root for root in before if root in after]
    if not roots:
        return Threshold([], [], [], [], 0)
    groups = [[found[root] for root in roots] for found in (before, after, attacked)]
    scores = [score for group in groups for score in group]
    low, high = min(scores), max(scores)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    at = [low + (high - low) * i / STEPS for i in range(STEPS + 1)]
    base, erased, most = (
        [sum(score >= t for score in group) / len(group) for t in at] for group in groups
    )
    return Threshold(at, base, erased, most, len(roots))


def _best(rows: Sequence[Row], attacks: Sequence[str]) -> dict[object, float]:
    """Root -> its best score under these attacks."""
    found: dict[object, float] = {}
    for row in rows:
        if row.attack in attacks and row.verdict is not None and row.verdict.score is not None:
            root = same(row.root)
            found[root] = max(found.get(root, row.verdict.score), row.verdict.score)
    return found
