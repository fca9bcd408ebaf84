"""A run's rows as a table of estimates: the gate first, then every attack beside its control."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from efface import attacks, metrics
from efface.core import Case, Estimate
from efface.store import Run

GATE = 0.9
"""Benign accuracy over the base model's, below which attack rates are not of an erased model."""
OVERALL = {
    "quality": ("quality", {}),
    "base_rate": ("base-rate", {}),
    "ua": ("ua", {}),
    "ira": ("ira", {}),
    "ira_base": ("ira", {"of_base": True}),
    "cra": ("cra", {}),
    "cra_base": ("cra", {"of_base": True}),
    "harmonic": ("harmonic", {}),
    "change": ("change", {}),
    "mcnemar": ("mcnemar", {}),
}
"""Of the run as a whole: key -> metric and its settings."""
PER_ATTACK = ("asr", "excess", "queries-to-hit", "pictures", "denoiser-calls")
CURVE = (1, 2, 4, 8, 16, 32, 64)
"""Queries at which hits are counted."""


def summary(run: Run) -> dict[str, Any]:
    """Everything that is shown, as JSON has it."""
    whole = {key: _tell(run, name, **more) for key, (name, more) in OVERALL.items()}
    quality = whole["quality"]["value"]
    asked: Mapping[str, Any] = run.story["attacks"]
    lines = []
    for name in asked:
        pre = {"pre-asr": _tell(run, "pre-asr")}
        each = {metric: _tell(run, metric, attack=name) for metric in PER_ATTACK}
        most = max((row.step + 1 for row in run.rows if row.attack == name), default=0)
        curve = [
            {"queries": q, **_tell(run, "asr", attack=name, queries=q)}
            for q in (*(q for q in CURVE if q < most), most)
            if most
        ]
        kind = attacks.find(name)
        needs = {"access": kind.access, "from_picture": kind.from_picture}
        redrawn = any(row.attack == name and _redrawn(row.case) for row in run.rows)
        line = {"attack": name, **needs, "redrawn": redrawn, **pre, **each, "curve": curve}
        lines.append(line)
    errors = sum(row.error is not None for row in (*run.rows, *run.base))
    return {
        "passes_gate": None if quality is None else quality >= GATE,
        "overall": whole,
        "attacks": lines,
        "pictures": sum(row.image is not None for row in (*run.rows, *run.base)),
        "errors": errors,
    }


def _redrawn(case: Case) -> bool:
    """Whether all of the picture shows through what is drawn; a hole is drawn anew."""
    return case.start is not None and not case.hole


def _tell(run: Run, name: str, **settings: Any) -> dict[str, Any]:
    found: Estimate = metrics.build(name, **settings)(run.rows, run.base)
    return asdict(found)
