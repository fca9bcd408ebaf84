"""Rows on disk: one JSON object a line, with the field names of `efface.core.Row`.

Pictures and soft prompts are named by their content and written before the row that names them.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from efface.core import Case, EffaceError, Row, Verdict
from efface.output import write_whole

DIGITS = 6
"""Digits that scores are kept with."""


class Rows:
    """One append-only file of rows."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.path = folder, folder / f"{name}.jsonl"

    def __iter__(self) -> Iterator[Row]:
        """Row by row, from the disk."""
        for told in self.told():
            yield _row(self.folder, told)

    def told(self) -> Iterator[dict[str, Any]]:
        """Every row as JSON has it."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return  # another process is writing it
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise EffaceError(
                        f"{self.path}, line {number}, is not JSON: run the audit in a new folder"
                    ) from error

    def count(self) -> dict[str, int]:
        """Rows by attack, in the order of the attacks' first rows."""
        found: dict[str, int] = {}
        for told in self.told():
            found[told["attack"]] = found.get(told["attack"], 0) + 1
        return found

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows and wait until they are on the disk."""
        self.write([tell(self.folder, row) for row in rows])

    def write(self, told: Sequence[Mapping[str, Any]]) -> None:
        """The same of what is JSON already."""
        lines = "".join(json.dumps(each) + "\n" for each in told)
        with self.path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def mend(self) -> None:
        """Cut off the half line that a killed process left."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            end = whole = file.seek(0, os.SEEK_END)
            while whole:
                start = max(0, whole - 65536)
                file.seek(start)
                at = file.read(whole - start).rfind(b"\n")
                if at >= 0:
                    whole = start + at + 1
                    break
                whole = start
            if whole < end:
                file.truncate(whole)


def tell(folder: Path, row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    verdict = row.verdict and asdict(rounded(row.verdict))
    return {
        "root": tell_case(folder, row.root),
        "case": tell_case(folder, row.case),
        "step": row.step,
        "image": None if row.image is None else row.image.as_posix(),
        "verdict": verdict,
        "error": row.error,
        "attack": row.attack,
    }


def rounded(verdict: Verdict) -> Verdict:
    """The verdict as rows keep it."""
    return replace(
        verdict,
        score=None if verdict.score is None else _round(verdict.score),
        labels={name: _round(value) for name, value in verdict.labels.items()},
    )


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def tell_case(folder: Path, case: Case) -> dict[str, Any]:
    """A case as JSON has it; its soft prompt goes into a file of the folder."""
    told = {name: getattr(case, name) for name in case.__dataclass_fields__}
    if case.embeds is not None:
        rows = case.embeds.detach().cpu().contiguous()
        told["embeds"] = keep(
            folder, "embeds", to_bytes({"embeds": rows}), "safetensors"
        ).as_posix()
    if case.start is not None:
        told["start"] = case.start.as_posix()
    if case.learnt is not None:
        told["learnt"] = case.learnt.as_posix()
    if case.size is not None:
        told["size"] = list(case.size)
    return told


def keep(folder: Path, kind: str, data: bytes, ending: str) -> Path:
    """Write a file named by its content unless it is there; answers its name in the folder."""
    name = Path(kind) / f"{hashlib.sha256(data).hexdigest()[:32]}.{ending}"
    if not (folder / name).exists():
        write_whole(folder / name, data)
    return name


def _row(folder: Path, told: Mapping[str, Any]) -> Row:
    verdict = told["verdict"]
    return Row(
        _case(folder, told["root"]),
        _case(folder, told["case"]),
        told["step"],
        None if told["image"] is None else Path(told["image"]),
        None if verdict is None else Verdict(**verdict),
        told["error"],
        told["attack"],
    )


def _case(folder: Path, told: Mapping[str, Any]) -> Case:
    fields = dict(told)
    if fields["embeds"] is not None:
        fields["embeds"] = load_file(folder / fields["embeds"])["embeds"]
    for name in ("start", "learnt"):
        if fields.get(name) is not None:
            fields[name] = Path(fields[name])
    if fields["size"] is not None:
        fields["size"] = tuple(fields["size"])
    return Case(**fields)
