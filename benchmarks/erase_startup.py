"""`efface erase emoji cigarette` as a whole process against the bare imports it cannot do without.

`make bench` runs the two in turn, prints the ratio pair by pair and writes
claims/erase-startup.json. The edit itself is the fit alone, its prompts encoded before.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import IMPORTS, run

OUT = Path("claims/erase-startup.json")
RUNS = 5
BAR, EDIT_BAR = 1.5, 0.2


def edit_seconds() -> list[float]:
    """Wall time of fitting, once its prompts are encoded and G is formed."""
    import torch

    from efface.api import default_keep
    from efface.backbones.open import open_model
    from efface.core import Concept
    from efface.erasers import build

    model, eraser = open_model("emoji"), build("rece")
    concept = Concept("cigarette", ("cigarette",), keep=default_keep(model, ("cigarette",), ()))
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        eraser.fit(model, concept, torch.Generator(), lambda *_: None)
        times.append(time.perf_counter() - started)
    return times[1:]


def main() -> None:
    """One uncounted run of each, then pairs."""
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch.safetensors"
        efface = str(Path(sys.executable).with_name("efface"))
        erase = [efface, "erase", "emoji", "cigarette", "--force", "-o", str(patch)]
        pairs = [(run(erase), run(IMPORTS)) for _ in range(RUNS + 1)][1:]
        size = patch.stat().st_size
    ratios = [a.seconds / b.seconds for a, b in pairs]
    busy = [a.cpu / b.cpu for a, b in pairs]
    report = {
        "command": "make bench",
        "erase seconds": [round(a.seconds, 3) for a, _ in pairs],
        "imports seconds": [round(b.seconds, 3) for _, b in pairs],
        "erase cpu seconds": [round(a.cpu, 3) for a, _ in pairs],
        "imports cpu seconds": [round(b.cpu, 3) for _, b in pairs],
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "all": [round(r, 3) for r in ratios],
        },
        "cpu ratio": {"median": round(statistics.median(busy), 3)},
        "bar": BAR,
        "edit seconds": [round(t, 3) for t in edit_seconds()],
        "edit bar": EDIT_BAR,
        "patch bytes": size,
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["ratio"]), f"bar {BAR}, patch {size} bytes")
    print("edit seconds", report["edit seconds"], f"bar {EDIT_BAR}")


if __name__ == "__main__":
    main()
