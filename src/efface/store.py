"""A run's folder: what was asked in run.json, what came of it in append-only rows, and pictures.

    run.json       everything needed to repeat the run; written once
    rows.jsonl     a row a picture of the erased model, in the order in which they are drawn
    base.jsonl     the same for the base model's pictures, which the others are compared with
    pictures/      PNG files named by their content
    embeds/        soft prompts, named likewise
    lora/          weights that attacks trained, named likewise
    sessions.jsonl what each sitting took; not part of the result

Everything reaches the disk before the next picture is asked for. A process that is killed leaves at
most half a line, which the next one cuts off.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from filelock import FileLock
from PIL.Image import Image

from efface.core import EffaceError, Row
from efface.grid import png
from efface.output import check_folder, hold, write_whole
from efface.rows import Rows, keep

FORMAT = 1
"""Version of the folder's layout; a reader refuses any other."""


class Store:
    """A run's folder while it is written; one process at a time may hold it."""

    def __init__(self, folder: Path, story: Mapping[str, Any], lock: FileLock) -> None:
        self.folder, self.story, self._lock = folder, story, lock
        self.rows, self.base = Rows(folder, "rows"), Rows(folder, "base")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def keep(self, picture: Image) -> Path:
        """Write a picture unless it is there; answers its name in the folder."""
        return keep(self.folder, "pictures", png(picture), "png")

    def note(self, what: Mapping[str, Any]) -> None:
        """What a sitting took; it differs from sitting to sitting, so it is no row."""
        with (self.folder / "sessions.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


def open_store(
    folder: Path, story: Mapping[str, Any], named: Mapping[str, Any] = MappingProxyType({})
) -> Store:
    """Make the folder, or go on in one that was made for the same `story`.

    `named`: what things were called, which may differ from sitting to sitting.
    """
    _check_place(folder)
    folder.mkdir(exist_ok=True)
    check_folder(folder)
    lock = hold(folder, "audit")
    try:
        wanted = json.loads(json.dumps({"format": FORMAT, **story}))
        path = folder / "run.json"
        if path.exists():
            _check_same(folder, read_story(folder), wanted)
        else:
            told = {**wanted, "named": dict(named), "time": _now()}
            write_whole(path, json.dumps(told, indent=1).encode() + b"\n")
        (folder / "pictures").mkdir(exist_ok=True)
        for kind in ("embeds", "lora"):
            (folder / kind).mkdir(exist_ok=True)
        for left in folder.rglob(".efface-*.tmp"):
            left.unlink()
        store = Store(folder, wanted, lock)
        for rows in (store.rows, store.base, Rows(folder, "sessions")):
            rows.mend()
    except BaseException:
        lock.release()
        raise
    return store


def seconds(folder: Path) -> float:
    """What all sittings together took."""
    path = folder / "sessions.jsonl"
    if not path.exists():
        return 0.0
    return sum(json.loads(line)["seconds"] for line in path.read_text().splitlines() if line)


class Run(NamedTuple):
    """A run as it is read."""

    folder: Path
    story: Mapping[str, Any]
    rows: list[Row]
    base: list[Row]


def read(folder: Path) -> Run:
    """All of a run's folder; a run that is still being written gives the rows so far."""
    return Run(folder, read_story(folder), list(Rows(folder, "rows")), list(Rows(folder, "base")))


def read_story(folder: Path) -> dict[str, Any]:
    """What was asked of the run."""
    path = folder / "run.json"
    try:
        story = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EffaceError(f"{folder} is no run: give a folder that efface audit wrote") from error
    except ValueError as error:
        raise EffaceError(f"{path} is damaged: run the audit in a new folder") from error
    if not isinstance(story, dict) or story.get("format") != FORMAT:
        raise EffaceError(
            f"{folder} was written by another version of efface (format "
            f"{story.get('format') if isinstance(story, dict) else None}, this one has {FORMAT}): "
            "read it with that version, or run the audit in a new folder"
        )
    return story


def _check_place(folder: Path) -> None:
    """Refuse a folder that holds something else, or cannot be made."""
    if folder.exists() and not folder.is_dir():
        raise EffaceError(f"{folder} is a file: name a folder for the run")
    if not folder.exists():
        check_folder(folder.absolute().parent)
    elif not (folder / "run.json").exists():
        # What an earlier call may have left that was stopped before its first word.
        strange = [p for p in folder.iterdir() if p.name != "lock" and p.suffix != ".tmp"]
        if strange:
            raise EffaceError(f"{folder} holds other files: name a new folder for the run")


REMEDY = {
    "efface": "finish it with that version",
    "torch": "finish it with that version",
    "base": "finish it with that model",
    "erased": "finish it with that patch or model",
}
"""What to do where a run was begun with something else."""


def _check_same(folder: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun otherwise."""
    for key in (*REMEDY, *wanted):
        if begun.get(key) != wanted.get(key):
            remedy = REMEDY.get(key, "ask for the same again")
            raise EffaceError(
                f"{folder} was begun with {key} {_short(begun.get(key))}, not "
                f"{_short(wanted.get(key))}: {remedy}, or name a new folder"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
