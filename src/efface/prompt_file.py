"""Prompt files as others publish them: one loader, streaming, that says what it took and what not.

CSV or TSV with a header, JSON lines, or plain text with a prompt a line. A row's own seed, guidance
and size are honoured where the file has them.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.core import Case, EffaceError
from efface.safety import refused

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "adv_prompt", "sensitive prompt", "text", "caption"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance": ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance"),
    "width": ("sd_image_width", "image_width", "width"),
    "height": ("sd_image_height", "image_height", "height"),
    "topic": ("categories", "category"),
}
"""What a row tells -> names of its column, as published files spell them."""
SEEDS = 2**63
LINE = 1 << 20
"""Characters that a row may have."""


@dataclass(frozen=True)
class Counted:
    """What a file holds."""

    file: str
    sha256: str
    rows: int
    used: int
    refused: int
    """Rows that join sexual content with words for minors."""
    repeated: int
    """Rows equal to one before."""


@dataclass(frozen=True)
class PromptFile:
    """A file and which of its columns tell what."""

    path: Path
    default: Case
    """What a row does not tell; its seed goes up by one a row."""
    columns: Mapping[str, str] | None = None
    """What is told -> column, instead of the usual spellings."""

    def count(self, most: int | None = None) -> Counted:
        """Read it through once."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise EffaceError(f"{self.path} cannot be read ({error.strerror})") from error
        found = {"rows": 0, "used": 0, "refused": 0, "repeated": 0}
        for kind, _ in self._cases(most):
            found["rows"] += 1
            found[kind] += 1
        if not found["used"]:
            raise EffaceError(f"{self.path} holds no prompt that can be used: give another file")
        return Counted(self.path.name, digest.hexdigest(), **found)

    def cases(self, most: int | None = None) -> Iterator[Case]:
        """The cases that are used, one at a time."""
        return (case for kind, case in self._cases(most) if kind == "used" and case is not None)

    def _cases(self, most: int | None) -> Iterator[tuple[str, Case | None]]:
        """Every row: "used" with its case, "refused" or "repeated"."""
        seen, used = set[bytes](), 0
        for number, row in enumerate(self._rows()):
            if used == most:
                return
            case = self._case(number, row)
            if refused(case.prompt, str(row.get("topic") or "")):
                yield "refused", None
                continue
            told = f"{case.seed} {case.guidance} {case.size} {case.prompt}"
            key = hashlib.blake2b(told.encode(), digest_size=12).digest()
            if key in seen:
                yield "repeated", None
                continue
            seen.add(key)
            used += 1
            yield "used", case

    def _case(self, number: int, row: Mapping[str, Any]) -> Case:
        where = f"{self.path}, row {number + 1}"
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise EffaceError(f"{where} has no prompt: fill it in or remove the row")
        seed = _number(where, "seed", row.get("seed"))
        guidance = _number(where, "guidance", row.get("guidance"))
        width, height = (_number(where, side, row.get(side)) for side in ("width", "height"))
        case = replace(
            self.default,
            prompt=" ".join(prompt.split()),
            seed=self.default.seed + number if seed is None else int(seed),
            guidance=self.default.guidance if guidance is None else float(guidance),
        )
        if not 0 <= case.seed < SEEDS:
            raise EffaceError(f"{where} has seed {case.seed}: seeds are from 0 to below 2^63")
        if width is not None and height is not None:
            if min(width, height) < 8 or max(width, height) > 8192:
                raise EffaceError(
                    f"{where} asks for {width:g} x {height:g} pixels: 8 to 8192 a side"
                )
            case = replace(case, size=(int(width), int(height)))
        return case

    def _rows(self) -> Iterator[dict[str, Any]]:
        """What each row tells, by our names."""
        try:
            with _opened(self.path) as file:
                ending = self.path.suffix.lower()
                if ending == ".txt":
                    yield from ({"prompt": line} for line in file if line.strip())
                elif ending in (".jsonl", ".ndjson"):
                    yield from self._told(json.loads(line) for line in file if line.strip())
                else:
                    delimiter = "\t" if ending == ".tsv" else ","
                    yield from self._told(csv.DictReader(file, delimiter=delimiter))
        except OSError as error:
            raise EffaceError(f"{self.path} cannot be read ({error.strerror})") from error
        except UnicodeError as error:
            raise EffaceError(
                f"{self.path} is neither UTF-8 nor UTF-16: save it as UTF-8"
            ) from error
        except (csv.Error, json.JSONDecodeError) as error:
            raise EffaceError(
                f"{self.path} is damaged ({error}): give CSV with a header"
            ) from error

    def _told(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        names: dict[str, str] | None = None
        for row in rows:
            if not isinstance(row, dict):
                raise EffaceError(f"{self.path} has a line that is no JSON object: give one a row")
            if names is None:
                names = self._names([str(k) for k in row if k is not None])
            yield {ours: row.get(theirs) for ours, theirs in names.items()}

    def _names(self, header: list[str]) -> dict[str, str]:
        """Our name -> the column's, in this file."""
        known = {h.strip().lower(): h for h in reversed(header)}
        given = dict(self.columns or {})
        if strange := sorted(set(given) - set(SPELLINGS)):
            raise EffaceError(f"no row tells {strange[0]!r}: it may tell {', '.join(SPELLINGS)}")
        found = {}
        for ours, spellings in SPELLINGS.items():
            asked = given.get(ours)
            if asked is not None and asked.strip().lower() not in known:
                raise EffaceError(f"{self.path} has no column {asked!r}: {', '.join(header)}")
            for name in (asked,) if asked is not None else spellings:
                if name.strip().lower() in known:
                    found[ours] = known[name.strip().lower()]
                    break
        if "prompt" not in found:
            raise EffaceError(
                f"{self.path} has no column of prompts among {', '.join(header)}: "
                "name it with --column prompt=NAME"
            )
        return found


def _opened(path: Path) -> io.TextIOWrapper:
    """The file as text: UTF-16 if its first bytes say so, else UTF-8."""
    csv.field_size_limit(LINE)
    with path.open("rb") as file:
        start = file.read(3)
    wide = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    return path.open(encoding="utf-16" if wide else "utf-8-sig", newline="")


def _number(where: str, what: str, value: Any) -> int | float | None:
    """A cell as a number; None where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found: int | float = (
            int(value) if what == "seed" and not isinstance(value, float) else float(value)
        )
        if found != found or found in (float("inf"), float("-inf")):
            raise ValueError(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise EffaceError(f"{where} has {what} {str(value)[:50]!r}: not a number") from error
    return found
