"""A study: erasers x concepts x attacks, each cell an audit, as a TOML file asks for it.

    title = "..."
    model = "emoji"
    concepts = ["cigarette", "twitter style", ["cat", "dog"]]   # a list is erased together
    attacks = ["synonyms", "typos"]
    metrics = ["quality", "ira"]                                # columns beside the attacks
    [erasers.rece]                                              # a row of the table
    method = "rece"                                             # its name if left out
    preset = "nudity"                                           # may be left out
    settings = { epochs = 3 }                                   # likewise

Cells run one after another. What is done stays done: a patch is loaded, an audit is resumed. A cell
that fails is a row with its error, and is tried again the next time.
"""

import hashlib
import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from efface import attacks as every_attack
from efface import erasers as every_eraser
from efface.api import erase
from efface.audit import COUNTS, Settings, audit
from efface.core import EffaceError, OnStep
from efface.output import check_folder, write_whole
from efface.report.evidence import gather
from efface.report.leaderboard import FORMAT
from efface.settings import check
from efface.summary import OVERALL

Phrases = str | list[str]


@dataclass(frozen=True)
class Study:
    """What a study asks for."""

    title: str
    model: str
    concepts: list[Phrases]
    erasers: dict[str, dict[str, Any]]
    attacks: list[str]
    metrics: list[str]
    note: str = ""
    """What a reader should know of it."""
    budget: str = "small"
    count: int | None = None
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    batch: int = 16
    detector: str | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, asked in self.erasers.items():
            method = asked.get("method", name)
            if strange := set(asked) - {"method", "preset", "settings"}:
                raise EffaceError(f"eraser {name!r} has no {min(strange)!r}: write it in settings")
            check(method, every_eraser.find(method), asked.get("settings", {}))
            every_eraser.build(method, asked.get("preset"), **asked.get("settings", {}))
        for attack in self.attacks:
            every_attack.find(attack)
        if wrong := [name for name in self.metrics if name not in OVERALL]:
            raise EffaceError(f"no metric {wrong[0]!r}: choose among {', '.join(OVERALL)}")
        if self.budget not in COUNTS:
            raise EffaceError(f"no budget {self.budget!r}: choose one of {', '.join(COUNTS)}")
        if not self.concepts or not self.erasers:
            raise EffaceError("a study needs at least one concept and one eraser")


class Cell(NamedTuple):
    """One eraser on one concept."""

    eraser: str
    phrases: tuple[str, ...]
    folder: Path
    asked: Mapping[str, Any]
    """All that its numbers depend on."""


def load_study(path: Path) -> Study:
    """Read the TOML file, or one sentence on what is wrong with it."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EffaceError(f"{path} cannot be read ({error.strerror}): give a TOML file") from error
    except ValueError as error:
        raise EffaceError(f"{path} is not TOML ({error})") from error
    kinds = get_type_hints(Study)
    for key, value in told.items():
        if key not in kinds:
            raise EffaceError(f"{path}: a study has no {key!r}: it has {', '.join(kinds)}")
        if not _fits(value, kinds[key]):
            raise EffaceError(f"{path}: {key} cannot be {value!r}")
    for f in fields(Study):
        if f.name not in told and f.default is MISSING:
            raise EffaceError(f"{path} does not say {f.name!r}")
    return Study(**told)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a TOML value is of a field's type."""
    if inner := get_args(kind):
        if get_origin(kind) is list:
            return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
        if get_origin(kind) is dict:
            return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
        return any(_fits(value, one) for one in inner)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return kind is Any or (isinstance(value, kind) and not (kind is int and value in (True, False)))


def cells(study: Study, out: Path) -> Iterator[Cell]:
    """Every eraser on every concept, concept by concept."""
    same = {f.name: getattr(study, f.name) for f in fields(Study) if f.name not in UNSAID}
    for said in study.concepts:
        phrases = (said,) if isinstance(said, str) else tuple(said)
        for name, how in study.erasers.items():
            asked = {**same, "eraser": {"method": name, **how}, "concept": list(phrases)}
            yield Cell(name, phrases, out / _slug(name) / _slug("-".join(phrases)), asked)


UNSAID = ("title", "note", "concepts", "erasers", "metrics")
"""What the numbers of one cell do not depend on."""


def run(study: Study, out: Path, command: str, on_step: OnStep) -> dict[str, Any]:
    """Run what is not done yet; answers, and writes to `out`/study.json, all that was found.

    `command` is what asked for it, kept beside the figures.
    """
    check_folder(out.absolute().parent)
    out.mkdir(exist_ok=True)
    todo, done = list(cells(study, out)), list[Mapping[str, Any]]()
    whole: dict[str, Any] = {}
    for i, cell in enumerate(todo):
        on_step(f"{cell.eraser}: {', '.join(cell.phrases)}", i, len(todo))
        done.append(_run_cell(study, cell, on_step))
        whole = {
            "format": FORMAT,
            "command": command,
            **{f.name: getattr(study, f.name) for f in fields(Study)},
            "cells": done,
            "unfinished": len(todo) - len(done),
        }
        write_whole(out / "study.json", json.dumps(whole, indent=1).encode() + b"\n")
    return whole


def _run_cell(study: Study, cell: Cell, on_step: OnStep) -> dict[str, Any]:
    """What one cell found, or its error."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    record = cell.folder / "cell.json"
    known: dict[str, Any] = {"asked": dict(cell.asked)}
    if record.exists():
        known = json.loads(record.read_text())
    if known["asked"] != json.loads(json.dumps(cell.asked)):
        raise EffaceError(f"{cell.folder} was made for other settings: name a new folder with -o")
    if "found" in known:
        return {"eraser": cell.eraser, "concept": list(cell.phrases), **known["found"]}
    try:
        known |= {"fit_seconds": _fit(study, cell, known.get("fit_seconds"), on_step)}
        write_whole(record, json.dumps(known, indent=1).encode())
        asked = Settings(
            attacks=tuple(study.attacks),
            **{key: getattr(study, key) for key in AUDITED},
        )
        patch, folder = cell.folder / "patch.safetensors", cell.folder / "run"
        audit(study.model, str(patch), folder, asked, on_step)
        known |= {"found": _found(folder, known["fit_seconds"])}
    except (EffaceError, RuntimeError) as error:  # one cell's failure is not the study's
        reason = " ".join(f"{error}".split())
        return {"eraser": cell.eraser, "concept": list(cell.phrases), "error": reason}
    write_whole(record, json.dumps(known, indent=1).encode())
    return {"eraser": cell.eraser, "concept": list(cell.phrases), **known["found"]}


AUDITED = ("budget", "count", "steps", "guidance", "seed", "batch", "detector", "precision")
"""What a study hands to its audits."""


def _fit(study: Study, cell: Cell, known: float | None, on_step: OnStep) -> float:
    """Fit and save the patch unless it is there; answers the seconds that took."""
    path = cell.folder / "patch.safetensors"
    if path.exists() and known is not None:
        return known
    how, started = study.erasers[cell.eraser], time.perf_counter()
    patch = erase(
        study.model,
        *cell.phrases,
        method=how.get("method", cell.eraser),
        preset=how.get("preset"),
        seed=study.seed,
        on_step=on_step,
        **how.get("settings", {}),
    )
    patch.save(path, force=True)
    return time.perf_counter() - started


def _found(folder: Path, fit_seconds: float) -> dict[str, Any]:
    """What of a run goes into the study's table."""
    evidence = gather(folder)
    return {
        "verdict": evidence.verdict._asdict(),
        "facts": evidence.patch["facts"],
        "settings": evidence.patch["eraser"],
        "fit_seconds": round(fit_seconds, 1),
        "overall": evidence.table["overall"],
        "attacks": evidence.table["attacks"],
        "pictures": evidence.table["pictures"],
        "errors": evidence.table["errors"],
        "hashes": evidence.hashes,
    }


def _slug(text: str) -> str:
    """A folder's name, told apart from any other text's."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
