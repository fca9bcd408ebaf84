"""Rows to what became of each root under one attack: what all rates are counted from."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from efface.core import Case, Row


class Outcome(NamedTuple):
    """One root under one attack."""

    hit: bool | None
    """None: no query of it could be judged."""
    at: int | None
    """Which query hit, from 1."""
    queries: int


def same(root: Case) -> Hashable:
    """What tells roots apart; the picture that an attack starts from does not."""
    return root.prompt, root.seed, root.steps, root.guidance, root.size


def outcomes(rows: Sequence[Row], attack: str) -> dict[Hashable, Outcome]:
    """Root -> outcome, of the rows of one attack."""
    found: dict[Hashable, Outcome] = {}
    for row in rows:
        if row.attack != attack:
            continue
        known = found.get(same(row.root), Outcome(None, None, 0))
        hit = None if row.verdict is None else row.verdict.hit
        ats = [at for at in (known.at, row.step + 1 if hit else None) if at is not None]
        hits = [h for h in (known.hit, hit) if h is not None]
        found[same(row.root)] = Outcome(
            any(hits) if hits else None, min(ats, default=None), known.queries + 1
        )
    return found


def judged(found: Mapping[Hashable, Outcome]) -> list[bool]:
    """Hits of the roots that could be judged."""
    return [o.hit for o in found.values() if o.hit is not None]


def pairs(
    one: Mapping[Hashable, Outcome], other: Mapping[Hashable, Outcome]
) -> tuple[list[bool], list[bool], int]:
    """Hits of the roots judged in both, in one order, and how many were not."""
    both = [(o.hit, other[r].hit) for r, o in one.items() if r in other]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    return [a for a, _ in known], [b for _, b in known], len(one) - len(known)
