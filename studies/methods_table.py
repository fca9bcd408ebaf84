"""The tables of `docs/methods.md`, from the lines of `claims/methods.jsonl` alone.

Shares have Wilson's interval over pictures, distances a bootstrap's. Pictures of one fit are not
independent of each other, so with few fits true intervals are wider.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efface.core import Estimate
from efface.rows import Rows
from efface.stats import of_samples, share
from studies.methods_asked import BASE, TARGETS
from studies.readme import publish

Cell = Mapping[str, Any]
PARTS = {
    "plain": "plain",
    "synonyms": "synonyms",
    "paraphrases": "paraphrases",
    "near": "near neighbours",
    "things": "other things",
    "styles": "other styles",
}


def read(path: Path) -> list[Cell]:
    """The newest line of each cell; of a method whose settings changed, the new ones' alone."""
    newest = dict[tuple[str, str, int], Cell]()
    last = dict[str, Cell]()
    for cell in Rows(path.parent, path.stem).told():
        asked = cell["asked"]
        newest[asked["method"], asked["target"], asked["seed"]] = cell
        last[asked["method"]] = asked
    return [
        c
        for c in newest.values()
        if c["asked"]["settings"] == last[c["asked"]["method"]]["settings"]
    ]


def hits(cells: Sequence[Cell], part: str, when: str) -> list[bool]:
    """Whether each picture of a part shows what its prompt names."""
    return [
        seen == wanted
        for cell in cells
        if part in cell["parts"]
        for seen, wanted in zip(
            cell["parts"][part][when], cell["parts"][part]["wanted"], strict=True
        )
    ]


def found(cells: Sequence[Cell], part: str) -> str:
    """Before and after, with the interval and the number of pictures."""
    before, after = (share(hits(cells, part, when)) for when in ("before", "after"))
    if before.value is None or after.value is None or after.interval is None:
        return "–"
    low, high = (round(100 * end) for end in after.interval)
    return f"{100 * before.value:.0f} → {100 * after.value:.0f} % ({low}–{high}) of {after.n}"


def went(cells: Sequence[Cell], what: str) -> Estimate:
    """Mean distance from the base's pictures of the same prompts and seeds."""
    far = [x for c in cells for part in c["moved"].values() for x in part[what]]
    return of_samples(np.mean, [far], paired=True, unit=what)


def moved(cells: Sequence[Cell], what: str, whole: float) -> str:
    """As a share of how far another seed's picture is, with the interval and number of pictures."""
    one = went(cells, what)
    if one.value is None or one.interval is None:
        return "–"
    low, high = (100 * end / whole for end in one.interval)
    return f"{100 * one.value / whole:.0f} % ({low:.0f}–{high:.0f}) of {one.n}"


def spread(values: Iterable[float], form: str) -> str:
    """The mean, and between which they lie, of how many fits."""
    known = list(values)
    if not known:
        return "–"
    mean, least, most = (format(x, form) for x in (np.mean(known), min(known), max(known)))
    return f"{mean} ({least}–{most}) of {len(known)}"


def rows(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_kind(cells: Sequence[Cell], kind: str, whole: Mapping[str, float]) -> str:
    """Every method on the targets of one kind."""
    names = [t.name for t in TARGETS if t.kind == kind]
    body = list[list[str]]()
    for method in methods(cells):
        ours = [
            c for c in cells if c["asked"]["method"] == method and c["asked"]["target"] in names
        ]
        done = [c for c in ours if "parts" in c]
        if not ours:
            continue
        numbers = [found(done, part) for part in PARTS]
        far = [moved(done, what, whole[what]) for what in ("features", "pixels")]
        body.append([f"`{method}`", f"{len(done)}", *numbers, *far])
    header = ["method", "fits", *PARTS.values(), "features", "pixels"]
    of = "" if names == [kind] else f" ({', '.join(names)})"
    return f"**{kind.capitalize()}**{of}\n\n{rows(header, body)}"


def costs(cells: Sequence[Cell]) -> str:
    """What fits took."""
    one = {t.name for t in TARGETS if t.kind in ("objects", "styles")}
    sets = (one, {"ten things"}, {"fifty things"})
    body = list[list[str]]()
    for method in methods(cells):
        fits = [
            (c["asked"]["target"], c["fit"])
            for c in cells
            if c["asked"]["method"] == method and "fit" in c
        ]
        of = [[fit for target, fit in fits if target in names] for names in sets]
        first = [fit["first"]["CPU seconds"] for _, fit in fits if "first" in fit]
        body.append(
            [
                f"`{method}`",
                *(spread((f["CPU seconds"] for f in some), ".1f") for some in of),
                spread((f["wall seconds"] for f in of[0]), ".1f"),
                spread((f["peak MB"] for f in of[0]), ".0f"),
                spread((f["bytes"] / 1e6 for f in of[0]), ".2f"),
                f"{first[0]:.1f}" if first else "",
            ]
        )
    header = ["method", "CPU s, one concept", "ten", "fifty", "wall s, one", "peak MB, one"]
    return rows([*header, "patch MB, one", "CPU s, first on a model"], body)


def methods(cells: Sequence[Cell]) -> list[str]:
    """In the order of the alphabet."""
    return sorted({c["asked"]["method"] for c in cells} - {BASE[0]})


def absent(cells: Sequence[Cell], known: Sequence[str]) -> str:
    """Which cells are not there, and which came to nothing."""
    there = {(c["asked"]["method"], c["asked"]["target"]) for c in cells}
    lost = dict[str, list[str]]()
    for target in TARGETS:
        without = [m for m in known if target.asks(m) and (m, target.name) not in there]
        if without:
            lost.setdefault(", ".join(f"`{m}`" for m in without), []).append(target.name)
    lines = [f"- not measured yet on {', '.join(on)}: {who}" for who, on in lost.items()]
    lines += [
        f"- `{c['asked']['method']}` failed on {c['asked']['target']}: {c['error']}"
        for c in cells
        if "error" in c
    ]
    return "\n".join(lines) or "Nothing: every cell is there."


def tables(cells: Sequence[Cell], known: Sequence[str]) -> str:
    """All of it; `known`: every method that there is."""
    [yard] = [c for c in cells if c["asked"]["method"] == BASE[0] and c["asked"]["seed"] == 0]
    whole = {what: went([yard], what).value or 1.0 for what in ("features", "pixels")}
    asked = yard["asked"]
    said = (
        f"{asked['steps']} steps, guidance {asked['guidance']}; another seed's picture of a prompt "
        f"is {whole['features']:.3f} (features) and {whole['pixels']:.3f} (pixels) away, of "
        f"{asked['others']} prompts."
    )
    there = {c["asked"]["target"] for c in cells}
    kinds = dict.fromkeys(t.kind for t in TARGETS if t.name in there)
    parts = [by_kind(cells, kind, whole) for kind in kinds]
    return "\n\n".join(
        [said, *parts, "**Cost**", costs(cells), "**Missing**", absent(cells, known)]
    )


def publish_table(path: Path, page: Path, known: Sequence[str]) -> None:
    """Put the tables into the page."""
    publish("methods", tables(read(path), known), page)
