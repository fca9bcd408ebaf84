"""`efface erase emoji cigarette` as a whole process against the bare imports it cannot do without.

`make bench` runs the two in turn, prints the ratio pair by pair and writes
claims/erase-startup.json.
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
BAR = 1.5
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
        "patch bytes": size,
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["ratio"]), f"bar {BAR}, patch {size} bytes")


if __name__ == "__main__":
    main()
