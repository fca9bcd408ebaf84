"""Processes with their wall time and peak memory, and what is made of repeated measurements.

Imports nothing heavy: Linux counts the memory of the parent as the child's until the child runs.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

IMPORTS = (
    sys.executable,
    "-c",
    "import torch; from transformers import CLIPTextModel, CLIPTokenizer",
)
"""What any tool that encodes a prompt must load."""
TORCH = (sys.executable, "-c", "import torch")
"""What exporting must load."""
EFFACE = (sys.executable, "-c", "from efface.cli import main; main()")


class Ran(NamedTuple):
    """One process."""

    seconds: float
    cpu: float
    megabytes: float
    """Peak resident memory, mapped files included."""
    out: str


def run(command: Sequence[str], **variables: str) -> Ran:
    """Run a command that must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        out, told = Path(folder, "out"), Path(folder, "err")
        write = os.O_WRONLY | os.O_CREAT
        started = time.perf_counter()
        child = os.posix_spawnp(
            command[0],
            list(command),
            {**os.environ, "HF_HUB_OFFLINE": "1", **variables},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, str(out), write, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, str(told), write, 0o600),
            ],
        )
        _, status, used = os.wait4(child, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{told.read_text()[-3000:]}")
        cpu = used.ru_utime + used.ru_stime
        return Ran(seconds, cpu, used.ru_maxrss * 1024 / 1e6, out.read_text())


def child(*arguments: str, **variables: str) -> Any:
    """What a module of the benchmarks prints as JSON in a process of its own."""
    return json.loads(run((sys.executable, "-m", *arguments), **variables).out)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Least, median and all of them: noise only adds time, so the least is nearest the truth."""
    return {
        "least": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "all": [round(v, 4) for v in values],
    }


def judged(value: float, bar: float, *, least: bool = False) -> dict[str, Any]:
    """A figure against its bar, which it must not exceed; `least`: which it must reach."""
    return {
        "value": round(value, 4),
        "bar": f"{'>=' if least else '<='} {bar}",
        "met": value >= bar if least else value <= bar,
    }


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def remove(*folders: Path) -> None:
    """Delete what may be there."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> Mapping[str, Any]:
    """What the figures were taken on."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else "unknown", "cores": os.cpu_count()}


def load() -> float:
    """Processes that want a core, over the last minute: above 0 before a run means noise."""
    return round(os.getloadavg()[0], 2)
