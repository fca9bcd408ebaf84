"""The grids: base, erased and most dangerous attacked picture of each prompt, at its seed.

Every picture is checked against the hash in its name and drawn anew, so that what is shown is what
was judged and nothing else of the file reaches the page.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from efface.core import ACROSS, KEPT, PLAIN, Row
from efface.outcomes import same
from efface.phrases import evenly
from efface.report.collateral import Moved
from efface.report.evidence import Evidence

MOST = 12
"""Prompts shown in a grid."""
SIDE = 192
"""Pixels that a shown picture has at most."""


class Shown(NamedTuple):
    """One picture, or why there is none."""

    label: str
    alt: str
    said: str
    """What the judge made of it."""
    hit: bool | None
    data: str | None
    """Data URI; None: `said` tells why."""


class Card(NamedTuple):
    """One prompt's pictures."""

    prompt: str
    seed: int
    pictures: list[Shown]


def concept_cards(found: Evidence) -> list[Card]:
    """Prompts of the concept, those that an attack brought back first."""
    base = {same(row.root): row for row in found.run.base if row.attack == PLAIN}
    plain = {same(row.root): row for row in found.run.rows if row.attack == PLAIN}
    worst = dict[object, Row]()
    for row in found.run.rows:
        if row.attack in found.run.story["attacks"] and row.attack != PLAIN:
            known = worst.get(same(row.root))
            if known is None or _danger(row) > _danger(known):
                worst[same(row.root)] = row
    roots = sorted(plain, key=lambda root: -_danger(worst.get(root, plain[root]))[0])[:MOST]
    return [
        _card(
            found.run.folder,
            [
                ("base", base.get(root)),
                ("erased", plain[root]),
                *([(f"by {worst[root].attack}", worst[root])] if root in worst else []),
            ],
        )
        for root in roots
    ]


def kept_cards(found: Evidence) -> list[Card]:
    """Benign prompts: those that moved most and a few taken evenly from the rest."""
    base = {(row.attack, same(row.root)): row for row in found.run.base}
    rows = [row for row in found.run.rows if row.attack in (KEPT, ACROSS)]
    ranked = sorted(rows, key=lambda row: _lost(base.get((row.attack, same(row.root))), row))
    some = ranked[: MOST // 2] + list(evenly(ranked[MOST // 2 :], MOST - MOST // 2))[: MOST // 2]
    return [
        _card(
            found.run.folder,
            [("base", base.get((row.attack, same(row.root)))), ("erased", row)],
        )
        for row in some
    ]


def hits(found: Evidence) -> list[Row]:
    """Rows that brought the concept back, fewest queries first."""
    asked = found.run.story["attacks"]
    brought = [r for r in found.run.rows if r.attack in asked and r.verdict and r.verdict.hit]
    return sorted(brought, key=lambda row: (row.step, row.attack))


def damaged(moved: Sequence[Moved]) -> list[Moved]:
    """Concepts drawn right less often than before."""
    return [m for m in moved if m.hits_after < m.hits_before]


def _danger(row: Row) -> tuple[bool, float]:
    """Orders rows by how much they show: hits first, then the score."""
    verdict = row.verdict
    if verdict is None:
        return False, -1.0
    return bool(verdict.hit), -1.0 if verdict.score is None else verdict.score


def _lost(before: Row | None, after: Row) -> float:
    scores = [r.verdict.score for r in (before, after) if r is not None and r.verdict is not None]
    known = [score for score in scores if score is not None]
    return known[1] - known[0] if len(known) == 2 else 0.0


def _card(folder: Path, rows: Sequence[tuple[str, Row | None]]) -> Card:
    first = next(row for _, row in rows if row is not None)
    shown = [_shown(folder, label, row) for label, row in rows if row is not None]
    return Card(first.root.prompt, first.root.seed, shown)


def _shown(folder: Path, label: str, row: Row) -> Shown:
    said = _said(row)
    hit = None if row.verdict is None else row.verdict.hit
    alt = f"{label}, prompt “{row.case.prompt}”, seed {row.case.seed}: {said}"
    if row.image is None:
        return Shown(label, alt, said, hit, None)
    try:
        return Shown(label, alt, said, hit, _data(folder / "pictures" / row.image.name))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        return Shown(label, alt, f"picture is damaged or gone ({type(error).__name__})", hit, None)


def _said(row: Row) -> str:
    if row.verdict is None:
        return f"error: {row.error or 'not judged'}"
    seen = {True: "seen", False: "not seen", None: "not judged"}[row.verdict.hit]
    return seen if row.verdict.score is None else f"{seen}, score {row.verdict.score:.2f}"


def _data(path: Path) -> str:
    """The picture, at most `SIDE` wide, as a data URI."""
    if not path.is_file():
        raise FileNotFoundError(path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:32] != path.stem:
        raise ValueError("its content is not what its name says")
    with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    if small.width < 96:
        small.save(file, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
