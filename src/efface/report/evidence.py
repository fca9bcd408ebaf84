"""All that a report tells of one run, worked out once from its folder; formats only lay it out."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from efface.core import EffaceError, Row
from efface.outcomes import outcomes
from efface.report.collateral import Moved, moved
from efface.report.threshold import Threshold, thresholds
from efface.report.verdict import Verdict, decide
from efface.store import Run, read
from efface.summary import summary

NEEDED = ("base", "erased", "concept", "attacks", "prompts", "detector", "steps", "guidance")
"""What run.json must say to be shown."""
POINTS = {"strength": {"strength", "certificate", "drift"}, "recovery": {"norm", "residual"}}
"""What a point of each curve tells."""
FILES = ("run.json", "rows.jsonl", "base.jsonl")
"""What the evidence is; pictures are named by their content."""


class Evidence(NamedTuple):
    """One run, ready to be shown."""

    run: Run
    table: Mapping[str, Any]
    """What `efface.summary` counts."""
    verdict: Verdict
    unjudged: Mapping[str, int]
    """Attack -> prompts none of whose tries was judged."""
    threshold: Threshold
    moved: Sequence[Moved]
    """Concepts that should stay, the most damaged first."""
    faults: Sequence[Row]
    """Rows that hold an error."""
    hashes: Mapping[str, str]
    """File -> SHA-256."""
    finished: bool

    @property
    def name(self) -> str:
        """The run's folder."""
        return self.run.folder.name

    @property
    def erased(self) -> str:
        """What should be gone."""
        return ", ".join(self.run.story["concept"]["erase"])

    @property
    def model(self) -> str:
        """What the model was called."""
        return str(self.run.story.get("named", {}).get("model", "the model"))

    @property
    def patch(self) -> Mapping[str, Any]:
        """What the patch told of itself; empty where it was not written down."""
        return self.run.story.get("named", {}).get("patch") or {}

    @property
    def eraser(self) -> str:
        """Name of the method, or of the erased model."""
        named = self.patch.get("eraser", {}).get("name")
        return str(named or Path(str(self.run.story.get("named", {}).get("erased", "?"))).name)

    @property
    def plain(self) -> Mapping[str, Any]:
        """The line of the table without an attack."""
        return next(line for line in self.table["attacks"] if line["attack"] == "none")


def gather(folder: Path) -> Evidence:
    """Read a run's folder; one sentence where it is damaged, empty or no run."""
    run = _read(folder)
    if not run.rows or not run.base:
        raise EffaceError(f"{folder} holds no pictures yet: let efface audit finish it first")
    table, finished = summary(run), (folder / "table.json").exists()
    unjudged = {name: _unjudged(run, name) for name in run.story["attacks"]}
    return Evidence(
        run,
        table,
        decide(table, unjudged, finished=finished),
        unjudged,
        thresholds(run),
        moved(run),
        [row for row in (*run.base, *run.rows) if row.error is not None],
        {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
        finished,
    )


def _check_named(folder: Path, story: Mapping[str, Any]) -> None:
    """Refuse names and patch facts of a form that no audit writes."""
    named = story.get("named", {})
    patch = (named.get("patch") or {}) if isinstance(named, dict) else None
    parts = (
        [patch.get(key, {}) for key in ("eraser", "facts")] if isinstance(patch, dict) else [None]
    )
    if not all(isinstance(part, dict) for part in parts) or not _drawable(patch):
        raise EffaceError(f"{folder}/run.json names its patch in no known form: run a new audit")


def _drawable(patch: Any) -> bool:
    """Whether the curves that a patch tells of, if any, are lists of points made of numbers."""
    curves = patch.get("curves") or {}
    return isinstance(curves, dict) and all(
        isinstance(curve, list)
        and all(
            isinstance(point, dict)
            and all(v is None or isinstance(v, int | float) for v in point.values())
            and point.keys() == POINTS[name]
            for point in curve
        )
        for name, curve in curves.items()
        if name in POINTS
    )


def _unjudged(run: Run, attack: str) -> int:
    return sum(outcome.hit is None for outcome in outcomes(run.rows, attack).values())


def _read(folder: Path) -> Run:
    try:
        run = read(folder)
    except EffaceError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OSError, SafetensorError) as error:
        raise EffaceError(
            f"rows of {folder} are damaged ({type(error).__name__}: {error}): "
            "run the audit in a new folder"
        ) from error
    if missing := [key for key in NEEDED if key not in run.story]:
        raise EffaceError(f"{folder}/run.json does not say {missing[0]!r}: efface audit wrote none")
    if not isinstance(run.story["attacks"], dict) or "none" not in run.story["attacks"]:
        raise EffaceError(f"{folder}/run.json names no attacks: run the audit in a new folder")
    _check_named(folder, run.story)
    return run
