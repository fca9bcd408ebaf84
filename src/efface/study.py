"""A study: erasers x concepts x attacks, each cell an audit, as a TOML file asks for it.

Cells do not depend on each other, so they run in turn or many at once (`workers`). What is done
stays done: a patch is loaded, an audit is resumed. A cell that fails is a row with its error, and
is tried again the next time.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from efface.api import erase, pipeline
from efface.audit import Settings, audit
from efface.backbones.local import placed
from efface.core import EffaceError, OnStep
from efface.output import check_folder, hold, write_whole
from efface.report.evidence import gather
from efface.report.leaderboard import FORMAT, read_study
from efface.study_file import Study, said_by
from efface.workers import Lost, Schedule, in_turn


class Cell(NamedTuple):
    """One eraser on one concept."""

    eraser: str
    phrases: tuple[str, ...]
    folder: Path
    asked: Mapping[str, Any]
    """All that its numbers depend on."""


def cells(study: Study, out: Path) -> Iterator[Cell]:
    """Every eraser on every concept, concept by concept."""
    same = {f.name: getattr(study, f.name) for f in fields(Study) if f.name not in UNSAID}
    same["format"] = FORMAT
    for said in study.concepts:
        phrases = (said,) if isinstance(said, str) else tuple(said)
        for name, how in study.erasers.items():
            asked = {**same, "eraser": {"method": name, **how}, "concept": list(phrases)}
            yield Cell(name, phrases, out / _slug(name) / _slug("-".join(phrases)), asked)


UNSAID = ("title", "note", "concepts", "erasers", "metrics", "device")
"""What the numbers of one cell do not depend on, or in their last bits alone."""


def run(
    study: Study, out: Path, command: str, on_step: OnStep, schedule: Schedule = in_turn
) -> dict[str, Any]:
    """Run what is not done yet; answers, and writes to `out`/study.json, all that was found.

    `command` is what asked for it, kept beside the figures.
    """
    study.check_files()
    check_folder(out.absolute().parent)
    out.mkdir(exist_ok=True)
    lock = hold(out, "study")
    try:
        todo = list(cells(study, out))
        told = _told_before(out)
        rows = [_done(cell) or told.get(_key(cell)) for cell in todo]
        left = [i for i, row in enumerate(rows) if row is None]
        whole = _write(study, out, command, rows)
        work = partial(_run_cell, study)
        with closing(schedule(work, [todo[i] for i in left], on_step)) as found:
            for i, row in found:
                cell = todo[left[i]]
                if isinstance(row, Lost):
                    row = _row(cell, {"error": row.reason})
                rows[left[i]] = row
                whole = _write(study, out, command, rows)
                on_step("cells", len(todo) - whole["unfinished"], len(todo))
    finally:
        lock.release()
    return whole


def _write(
    study: Study, out: Path, command: str, rows: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The study so far; rows stand in the order in which the study names them."""
    done = [row for row in rows if row is not None]
    whole: dict[str, Any] = {
        "format": FORMAT,
        "command": command,
        **{f.name: getattr(study, f.name) for f in fields(Study)},
        "cells": done,
        "unfinished": len(rows) - len(done),
    }
    head, tail = json.dumps(whole | {"cells": []}, indent=1).split('"cells": []')
    lines = ",\n".join(json.dumps(row) for row in done)
    write_whole(out / "study.json", f'{head}"cells": [\n{lines}\n]{tail}\n'.encode())
    return whole


def _told_before(out: Path) -> dict[str, dict[str, Any]]:
    """Rows that a study.json in the folder has, by all that their numbers depend on.

    It may be of another machine, without the cells' own folders.
    """
    if not (path := out / "study.json").exists():
        return {}
    told = read_study(path)
    before = Study(**{f.name: told[f.name] for f in fields(Study)})
    rows = {(r["eraser"], *r["concept"]): r for r in told["cells"] if "error" not in r}
    asked = {(cell.eraser, *cell.phrases): _key(cell) for cell in cells(before, out)}
    return {asked[name]: row for name, row in rows.items() if name in asked}


def _key(cell: Cell) -> str:
    return json.dumps([cell.eraser, cell.asked], sort_keys=True)


def _done(cell: Cell) -> dict[str, Any] | None:
    """The line of a cell whose folder has all of it."""
    found = _known(cell).get("found")
    return found and _row(cell, found)


def _known(cell: Cell) -> dict[str, Any]:
    """What earlier calls left of a cell."""
    record = cell.folder / "cell.json"
    known: dict[str, Any] = {"asked": dict(cell.asked)}
    if record.exists():
        known = json.loads(record.read_text())
    if known["asked"] != json.loads(json.dumps(cell.asked)):
        raise EffaceError(f"{cell.folder} was made for other settings: name a new folder with -o")
    return known


def _row(cell: Cell, told: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's line of the table."""
    return {"eraser": cell.eraser, "concept": list(cell.phrases), **told}


def _run_cell(study: Study, cell: Cell, on_step: OnStep) -> dict[str, Any]:
    """What one cell found, or its error."""
    on_step(f"{cell.eraser}: {', '.join(cell.phrases)}", 0, 1)
    cell.folder.mkdir(parents=True, exist_ok=True)
    known, record = _known(cell), cell.folder / "cell.json"
    try:
        known |= {"fit_seconds": _fit(study, cell, known.get("fit_seconds"), on_step)}
        write_whole(record, json.dumps(known, indent=1).encode())
        asked = Settings(
            attacks=tuple(study.attacks),
            detector=study.detectors,
            prompts=study.file(cell.phrases),
            **{key: getattr(study, key) for key in AUDITED},
        )
        patch, folder = cell.folder / "patch.safetensors", cell.folder / "run"
        audit(study.model, str(patch), folder, asked, on_step)
        found = _found(folder, known["fit_seconds"])
    except (EffaceError, RuntimeError) as error:  # one cell's failure is not the study's
        return _row(cell, {"error": " ".join(f"{error}".split())})
    write_whole(record, json.dumps(known | {"found": found}, indent=1).encode())
    return _row(cell, found)


AUDITED = (
    "budget", "count", "steps", "guidance", "seed", "batch", "precision", "watch", "device",
    "detecting",
)  # fmt: skip
"""What a study hands to its audits."""


def _fit(study: Study, cell: Cell, known: float | None, on_step: OnStep) -> float:
    """Fit and save the patch unless it is there; answers the seconds that took."""
    path = cell.folder / "patch.safetensors"
    if path.exists() and known is not None:
        return known
    how, started = study.erasers[cell.eraser], time.perf_counter()
    source: Any = study.model
    if study.device != "cpu":
        source = placed(pipeline(study.model), study.device)
    phrases = said_by(cell.phrases)
    patch = erase(
        source,
        *phrases,
        toward=study.toward,
        keep=[word for word in said_by(study.keep) if word not in phrases] or None,
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
        "drawn_on": {name: evidence.run.story[name] for name in ("device", "precision", "torch")},
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
