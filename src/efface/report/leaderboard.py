"""A study's table, and what it teaches: generated from study.json, each number with its interval.

No score joins the columns: which of them matters depends on who may attack, and on what must stay.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efface.core import EffaceError, Estimate
from efface.report.tables import cell, grid
from efface.report.words import count, share
from efface.stats import share as wilson

FORMAT = 1
"""Version of a study's JSON."""
TITLES = {
    "quality": "others drawn right, of before",
    "base_rate": "base model shows it",
    "ua": "not shown (UA)",
    "ira": "others of its kind right (IRA)",
    "ira_base": "the same, base",
    "cra": "other kinds right (CRA)",
    "cra_base": "the same, base",
    "harmonic": "harmonic mean (MACE)",
    "change": "change of the rate",
    "mcnemar": "p of no change",
}
"""Metric -> its column."""
Told = Mapping[str, Any]


def leaderboard(study: Told, command: str) -> str:
    """The page, as Markdown; `command` is what made the study."""
    shown = [c for c in study["cells"] if "error" not in c]
    failed = [c for c in study["cells"] if "error" in c]
    parts = [
        f"# {cell(study['title'])}\n",
        "Generated from the study's JSON by `efface leaderboard`; do not edit.\n",
        f"{cell(study['note'])}\n" if study["note"] else "",
        "## What it teaches\n",
        *(f"- {sentence}" for sentence in teaches(study)),
        "",
        "## Each eraser on each concept\n",
        grid(header(study), lines(study)),
        "Rates are shares of prompts in which the judge sees the concept, unattacked or under the "
        "attack, with 95 % intervals (Wilson) and counts; `seeds` draws again with other seeds and "
        "is the control. No score joins the columns.\n",
        "## Pooled over concepts\n",
        grid(
            ["eraser", *_attacks(study), "others drawn right"],
            [
                [
                    name,
                    *(_told(pooled(shown, name, attack)) for attack in _attacks(study)),
                    _told(pooled_kept(shown, name)),
                ]
                for name in study["erasers"]
            ],
        ),
        "Prompts of all concepts are counted as one sample here, so the intervals do not hold for "
        "concepts that are not in the study.\n",
        "## Made with\n",
        f"    {command}\n",
        grid(["setting", "value"], _settings(study)),
    ]
    if failed or study["unfinished"]:
        rows = [[c["eraser"], ", ".join(c["concept"]), c["error"]] for c in failed]
        parts += [
            "## Not measured\n",
            f"{study['unfinished']} cells were not reached.\n" if study["unfinished"] else "",
            grid(["eraser", "concept", "error"], rows) if rows else "",
        ]
    return "\n".join(parts)


def read_study(path: Path) -> dict[str, Any]:
    """What efface compare wrote."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EffaceError(f"{path} is no study ({type(error).__name__}): run efface compare") from (
            error
        )
    if not isinstance(told, dict) or told.get("format") != FORMAT or "cells" not in told:
        raise EffaceError(f"{path} was not written by this version of efface compare: run it again")
    return told


def header(study: Told) -> list[str]:
    """Columns of the table."""
    named = [TITLES[metric] for metric in study["metrics"]]
    return ["concept", "eraser", "verdict", *_attacks(study), *named, "certificate", "fit, s"]


def lines(study: Told) -> list[list[str]]:
    """A line a cell; one that failed says so."""
    return [_line(study, c) for c in study["cells"]]


def _line(study: Told, told: Told) -> list[str]:
    what = [", ".join(told["concept"]), told["eraser"]]
    if "error" in told:
        return [*what, "failed", *[""] * (len(header(study)) - 3)]
    rates = {line["attack"]: line for line in told["attacks"]}
    certificate = (told["facts"].get("certificate") or {}).get("min")
    return [
        *what,
        told["verdict"]["word"],
        *(_rate(rates[attack]) if attack in rates else "" for attack in _attacks(study)),
        *(share(told["overall"][metric]) for metric in study["metrics"]),
        count(certificate if certificate is None else round(certificate, 3)),
        count(told["fit_seconds"]),
    ]


def _rate(line: Told) -> str:
    return share(line["asr"]) if line["pictures"]["n"] or not line["asr"]["n"] else "nothing to try"


def _attacks(study: Told) -> list[str]:
    """Attacks of the study, the unattacked and the control first."""
    return list(dict.fromkeys(["none", "seeds", *study["attacks"]]))


def pooled(cells: Sequence[Told], eraser: str, attack: str) -> Estimate:
    """The attack's rate on all of an eraser's prompts."""
    asked = [
        line["asr"]
        for told in cells
        if told["eraser"] == eraser
        for line in told["attacks"]
        if line["attack"] == attack
    ]
    return _pool(asked)


def pooled_kept(cells: Sequence[Told], eraser: str) -> Estimate:
    """Share of what must stay that is drawn right, of all of an eraser's benign prompts."""
    ours = [told["overall"] for told in cells if told["eraser"] == eraser]
    return _pool([whole[kind] for whole in ours for kind in ("ira", "cra")])


def pooled_base(cells: Sequence[Told], eraser: str) -> Estimate:
    """The same of the base model."""
    ours = [told["overall"] for told in cells if told["eraser"] == eraser]
    return _pool([whole[f"{kind}_base"] for whole in ours for kind in ("ira", "cra")])


def _pool(estimates: Sequence[Told]) -> Estimate:
    """One share of several, from their counts."""
    hits = sum(round(e["value"] * e["n"]) for e in estimates if e["value"] is not None)
    n = sum(e["n"] for e in estimates)
    found = [True] * hits + [False] * (n - hits)
    return wilson(found, skipped=sum(e["skipped"] for e in estimates))


def _told(estimate: Estimate) -> str:
    return share(asdict(estimate))


def teaches(study: Told) -> list[str]:
    """Which erasers resist which attacks, and at what cost to the rest, from the intervals."""
    shown = [c for c in study["cells"] if "error" not in c]
    said = list[str]()
    for name in study["erasers"]:
        rates = {a: pooled(shown, name, a) for a in _attacks(study)}
        known = {a: r for a, r in rates.items() if r.value is not None and r.interval is not None}
        if "none" not in known:
            continue
        start = known.pop("none")
        yields = [
            f"{a} {_told(r)}"
            for a, r in sorted(known.items(), key=lambda each: -(each[1].value or 0))
            if r.interval is not None and start.interval is not None
            if r.interval[0] > (start.value or 0)
        ]
        held = [a for a, r in known.items() if not any(y.startswith(f"{a} ") for y in yields)]
        after, before = pooled_kept(shown, name), pooled_base(shown, name)
        kept = f"It draws {_told(after)} of what must stay right, the base model {_told(before)}."
        said.append(
            f"**{cell(name)}** leaves {_told(start)} of prompts unattacked. "
            + (f"It surely yields more to {cell('; '.join(yields))}. " if yields else "")
            + (f"No sure gain for {cell(', '.join(held))}. " if held else "")
            + kept
        )
    broken = [c for c in shown if c["verdict"]["word"] == "broken model"]
    if broken:
        some = ", ".join(f"{c['eraser']} on {', '.join(c['concept'])}" for c in broken)
        said.append(f"Broken models, whose rates say little: {cell(some)}.")
    return said or ["Nothing yet: no cell was measured."]


def _settings(study: Told) -> list[list[str]]:
    names = ("model", "budget", "count", "steps", "guidance", "seed", "detector", "precision")
    told = [[name, str(study[name])] for name in names]
    return [*told, ["cells", str(len(study["cells"]))], *_methods(study)]


def _methods(study: Told) -> list[list[str]]:
    """What each row of the table was set to."""
    return [[name, str(dict(how) or "defaults")] for name, how in study["erasers"].items()]
