"""What a study teaches: who erases, who resists which kind of attacker, what it costs the rest.

Only concepts that every eraser was tried on count, and attacks only where the concept was gone
from plain prompts and the model stayed whole: elsewhere they have nothing to bring back. An
attacker of a kind takes the attack that finds most. "Surely" is said where 95 % intervals do not
touch; every eraser has a control of its own, `seeds`, which costs nothing but pictures.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from efface.core import Estimate
from efface.report.pooled import Told, attacks_of, measured, pooled, pooled_kept, told_of
from efface.report.tables import cell
from efface.report.words import percent

KINDS = {
    "other prompts": "who writes other prompts",
    "a picture": "who starts from a picture of it",
    "the text encoder": "who searches with the text encoder",
    "the whole model": "who holds both models and feeds them anything",
    "training": "who trains the erased model on",
}
"""Kind of attacker -> who that is; the least access first."""
ACCESS = {"text": "the text encoder", "white": "the whole model", "weights": "training"}
CONTROL = "seeds"
FAILED = {
    "not erased": "did not erase",
    "broken model": "broke the model",
    "not measured": "was not measured",
}
"""Verdict of a cell in which attacks tell nothing -> what the eraser did."""


class Found(NamedTuple):
    """The attack of a kind that finds most."""

    attack: str
    rate: Estimate


def shared(study: Told) -> list[Told]:
    """Cells of concepts that every eraser was tried on; all cells where there is none such."""
    tried = [(told["eraser"], tuple(told["concept"])) for told in study["cells"]]
    erasers = {eraser for eraser, _ in tried}
    common = {c for _, c in tried if all((eraser, c) in tried for eraser in erasers)}
    cells = measured(study)
    return [told for told in cells if tuple(told["concept"]) in common] or cells


def gone(cells: Sequence[Told]) -> list[Told]:
    """Cells in which the concept is gone from plain prompts, and the model whole."""
    return [told for told in cells if told["verdict"]["word"] not in FAILED]


def kind_of(line: Told) -> str:
    """What an attack's attacker needs, from its line of a cell."""
    if line["access"] == "none":
        return "a picture" if line["from_picture"] else "other prompts"
    return ACCESS[line["access"]]


def kinds(study: Told) -> dict[str, list[str]]:
    """Kind of attacker -> the study's attacks that ran, those that are no controls."""
    lines = {line["attack"]: line for told in measured(study) for line in told["attacks"]}
    named = [name for name in attacks_of(study) if name in lines and name not in ("none", CONTROL)]
    found = {kind: [name for name in named if kind_of(lines[name]) == kind] for kind in KINDS}
    return {kind: names for kind, names in found.items() if names}


def worst(cells: Sequence[Told], eraser: str, names: Sequence[str]) -> Found | None:
    """What finds most, the first of equals; None where nothing was measured."""
    rates = [Found(name, pooled(cells, eraser, name)) for name in names]
    known = [found for found in rates if found.rate.value is not None]
    return max(known, key=lambda found: found.rate.value or 0.0, default=None)


def above(one: Estimate, other: Estimate) -> bool:
    """Whether a rate is surely above another."""
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] > other.interval[1]


def matrix(study: Told) -> tuple[list[str], list[list[str]]]:
    """Header and lines: each eraser against each kind of attacker, and what must stay."""
    cells, asked = shared(study), kinds(study)
    left = gone(cells)
    header = ["eraser", "concepts erased", "other seeds", *asked, "others drawn right"]
    lines = []
    for name in _erasers(study, cells):
        found = [worst(left, name, attacks) for attacks in asked.values()]
        tried, done = (sum(c["eraser"] == name for c in some) for some in (cells, left))
        lines.append(
            [
                name,
                f"{done} of {tried}",
                told_of(pooled(left, name, CONTROL)),
                *("" if f is None else f"{told_of(f.rate)}, {f.attack}" for f in found),
                told_of(pooled_kept(cells, name)),
            ]
        )
    return header, lines


def teaches(study: Told) -> list[str]:
    """Sentences; each eraser is in one list of each."""
    cells = shared(study)
    names = _erasers(study, cells)
    if not names:
        return ["Nothing yet: no cell was measured."]
    left = gone(cells)
    whole = [n for n in names if all(c in left for c in cells if c["eraser"] == n)]
    said = [f"**Gone from plain prompts**, every concept: {_list(whole)}.{_failures(cells)}"]
    said += [_resist(left, names, kind, asked) for kind, asked in kinds(study).items()]
    pairs = {n: (pooled_kept(cells, n), pooled_kept(cells, n, "_base")) for n in names}
    lost = {n: f"{n} {told_of(p[0])}" for n, p in pairs.items() if above(p[1], p[0])}
    held = [n for n in names if n not in lost]
    said.append(
        f"**What must stay** is drawn by the base model at {told_of(pairs[names[0]][1])}."
        f" Surely less after {_list(lost.values())}."
        + (f" Not surely less after {_list(held)}." if held else "")
    )
    return said


def concepts_of(study: Told) -> str:
    """The concepts that count."""
    return ", ".join(dict.fromkeys(" + ".join(told["concept"]) for told in shared(study)))


def _failures(cells: Sequence[Told]) -> str:
    """Which eraser failed on what, and how."""
    said = ""
    for word, did in FAILED.items():
        found: dict[str, list[str]] = {}
        for told in cells:
            if told["verdict"]["word"] == word:
                found.setdefault(told["eraser"], []).append(" + ".join(told["concept"]))
        tried = {name: sum(told["eraser"] == name for told in cells) for name in found}
        some = [
            f"{name} ({'every concept' if 1 < tried[name] == len(on) else ', '.join(on)})"
            for name, on in found.items()
        ]
        said += f" What {did}: {_list(some)}." if some else ""
    return said


def _resist(cells: Sequence[Told], names: Sequence[str], kind: str, asked: Sequence[str]) -> str:
    """Where the concept was gone: who yields to an attacker of this kind, and who not surely."""
    found = {n: f for n in names if (f := worst(cells, n, asked)) is not None}
    yields = {n: f for n, f in found.items() if above(f.rate, pooled(cells, n, CONTROL))}
    most = sorted(yields.items(), key=lambda each: -(each[1].rate.value or 0.0))
    held = [n for n in found if n not in yields]
    attacks = {f.attack for f in yields.values()}
    after = _list(
        f"{n} {percent(f.rate.value)}{f' by {f.attack}' if len(attacks) > 1 else ''}"
        for n, f in most
    )
    if len(yields) > 1 and not held:
        high, low = (percent(most[end][1].rate.value) for end in (0, -1))
        after = f"every one of them, {low} to {high}"
    by = f" (by {attacks.pop()})" if len(attacks) == 1 else ""
    who = KINDS[kind]
    return (
        f"**{who[0].upper()}{who[1:]}** ({_list(asked)}) surely finds more than other seeds do "
        f"after {after}{by}." + (f" Not surely after {_list(held)}." if held and yields else "")
    )


def _erasers(study: Told, cells: Sequence[Told]) -> list[str]:
    """Those with a cell that was measured."""
    done = {told["eraser"] for told in cells}
    return [name for name in study["erasers"] if name in done]


def _list(some: Iterable[str]) -> str:
    return ", ".join(cell(each) for each in some) or "none of them"
