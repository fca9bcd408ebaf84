"""Rates over all prompts of an eraser's cells, from their counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from efface.core import Estimate
from efface.report.words import share
from efface.stats import share as wilson

Told = Mapping[str, Any]


def measured(study: Told) -> list[Told]:
    """Cells that came to something."""
    return [told for told in study["cells"] if "error" not in told]


def attacks_of(study: Told) -> list[str]:
    """Attacks of the study, the unattacked and the control first."""
    return list(dict.fromkeys(["none", "seeds", *study["attacks"]]))


def pooled(cells: Sequence[Told], eraser: str, attack: str) -> Estimate:
    """The attack's rate on all of an eraser's prompts."""
    return _pool(
        line["asr"]
        for told in cells
        if told["eraser"] == eraser
        for line in told["attacks"]
        if line["attack"] == attack
    )


def pooled_kept(cells: Sequence[Told], eraser: str, when: str = "") -> Estimate:
    """Share of what must stay that is drawn right, of all of an eraser's benign prompts.

    `when`: "_base" asks for the base model's.
    """
    return _pool(
        told["overall"][f"{kind}{when}"]
        for told in cells
        if told["eraser"] == eraser
        for kind in ("ira", "cra")
    )


def _pool(estimates: Iterable[Told]) -> Estimate:
    known = list(estimates)
    hits = sum(round(e["value"] * e["n"]) for e in known if e["value"] is not None)
    n = sum(e["n"] for e in known)
    found = [True] * hits + [False] * (n - hits)
    return wilson(found, skipped=sum(e["skipped"] for e in known))


def told_of(estimate: Estimate) -> str:
    """As in "25 % (7 to 59) of 8"."""
    return share(asdict(estimate))
