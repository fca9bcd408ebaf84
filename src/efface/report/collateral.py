"""Which concepts moved that should not have, and by how much: the benign prompts, one by one.

The judge's score of what each prompt names, erased less base, on the same prompts and seeds.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from efface.core import ACROSS, KEPT, Row
from efface.outcomes import same
from efface.store import Run


class Moved(NamedTuple):
    """One concept's pictures before and after."""

    name: str
    kind: str
    """`KEPT`, or `ACROSS` for another domain."""
    before: float | None
    """Mean score in the base model."""
    after: float | None
    hits_before: int
    hits_after: int
    n: int
    """Pairs of pictures judged in both."""
    skipped: int
    seen: str | None
    """What the judge reads instead, where it lost the concept and names another."""

    @property
    def change(self) -> float | None:
        """Score after less before."""
        return None if self.before is None or self.after is None else self.after - self.before


def moved(run: Run) -> list[Moved]:
    """Every concept that the benign prompts name, the most damaged first."""
    base = {(row.attack, same(row.root)): row for row in run.base}
    groups: dict[tuple[str, str], list[tuple[Row | None, Row]]] = {}
    for row in run.rows:
        if row.attack in (KEPT, ACROSS):
            pair = (base.get((row.attack, same(row.root))), row)
            groups.setdefault((row.attack, _named(pair)), []).append(pair)
    found = [_moved(name, kind, pairs) for (kind, name), pairs in groups.items()]
    return sorted(found, key=lambda m: (m.change is None, m.change, m.name))


def _moved(name: str, kind: str, pairs: list[tuple[Row | None, Row]]) -> Moved:
    before, after, seen = list[float](), list[float](), list[str]()
    hits_before = hits_after = 0
    for one, other in pairs:
        was, now = None if one is None else one.verdict, other.verdict
        if was is None or now is None or was.score is None or now.score is None:
            continue
        before.append(was.score)
        after.append(now.score)
        hits_before += bool(was.hit)
        hits_after += bool(now.hit)
        if was.hit and now.hit is False and now.labels:
            seen.append(max(now.labels, key=lambda label: now.labels[label]))
    n = len(before)
    return Moved(
        name,
        kind,
        sum(before) / n if n else None,
        sum(after) / n if n else None,
        hits_before,
        hits_after,
        n,
        len(pairs) - n,
        seen[0] if seen else None,
    )


def _named(pair: tuple[Row | None, Row]) -> str:
    """What a benign prompt names: the judge's longest label in it, else the prompt."""
    prompt = pair[1].root.prompt
    labels: Mapping[str, float] = {}
    for row in pair:
        if row is not None and row.verdict is not None:
            labels = row.verdict.labels
    said = [w for w in labels if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", prompt, re.IGNORECASE)]
    return max(said, key=len, default=prompt)
