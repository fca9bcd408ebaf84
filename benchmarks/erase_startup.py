"""`efface erase emoji cigarette` as a whole process against the bare imports it cannot do without.

`make bench` runs the two in turn, prints the ratio pair by pair and writes
claims/erase-startup.json. The edit itself is the fit alone, its prompts encoded before.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUT = Path("claims/erase-startup.json")
RUNS = 5
BAR, EDIT_BAR = 1.5, 0.2
IMPORTS = [
    sys.executable,
    "-c",
    "import torch; from transformers import CLIPTextModel, CLIPTokenizer",
]


def seconds(command: list[str]) -> float:
    """Wall time of a process that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


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
        pairs = [(seconds(erase), seconds(IMPORTS)) for _ in range(RUNS + 1)][1:]
        size = patch.stat().st_size
    ratios = [a / b for a, b in pairs]
    report = {
        "command": "make bench",
        "erase seconds": [round(a, 3) for a, _ in pairs],
        "imports seconds": [round(b, 3) for _, b in pairs],
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "all": [round(r, 3) for r in ratios],
        },
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
