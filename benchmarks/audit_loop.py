"""An audit's drawing against a plain loop of one diffusers call a prompt.

`python -m benchmarks.audit_loop` writes claims/audit-speed.json. Both draw and judge the same cases
of `emoji` at one precision on all cores: leave the machine alone meanwhile. Pictures are compared
level by level.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from efface import attacks
from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import load_pipeline
from efface.core import Case, Concept, quiet
from efface.detectors.judge import reporting
from efface.run import Scene, drive
from efface.store import open_store

OUT = Path("claims/audit-speed.json")
WORDS = ("cat", "dog", "rocket", "pizza", "church", "guitar", "crown", "spider")


def cases(prompts: int, each: int) -> list[Case]:
    """`each` seeds of so many prompts, as as many attacks would ask for."""
    return [
        Case(f"a {WORDS[i % len(WORDS)]}", 1000 * j + i)
        for j in range(each)
        for i in range(prompts)
    ]


def plain(pipe: Any, judge: Any, asked: list[Case], dtype: torch.dtype) -> list[Image.Image]:
    """What anybody would write first."""
    found = []
    detect = judge.watch("cat", "concept")
    for case in asked:
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            [picture] = pipe(
                case.prompt,
                num_inference_steps=case.steps,
                guidance_scale=case.guidance,
                generator=torch.Generator().manual_seed(case.seed),
            ).images
        detect([picture])
        found.append(picture)
    return found


def audit(
    pipe: Any, judge: Any, asked: list[Case], dtype: torch.dtype, batch: int
) -> tuple[float, list[Image.Image]]:
    """Seconds a picture, and the pictures."""
    model, detect = open_pipeline(pipe, frozen=True), judge.watch("cat", "concept")
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(Path(folder, "run"), {}) as store,
    ):
        scene = Scene(model, model, Concept("cat", ("cat",)), store, 0, batch, dtype)
        started = time.perf_counter()
        drive(scene, "none", attacks.build("none"), [(c, detect) for c in asked], quiet)
        fast = (time.perf_counter() - started) / len(asked)
        files = {r.case.seed: r.image for r in store.rows if r.image is not None}
        drawn = [Image.open(store.folder / files[c.seed]) for c in asked]
        return fast, [picture.convert("RGB") for picture in drawn]


def main() -> None:
    """Measure both and compare their pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--attacks", type=int, default=4)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--loop", type=int, default=40, help="cases the plain loop draws")
    options = parser.parse_args()
    pipe, judge = load_pipeline("emoji"), reporting()
    asked = cases(options.prompts, options.attacks)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        started = time.perf_counter()
        alone = plain(pipe, judge, asked[: options.loop], dtype)
        slow = (time.perf_counter() - started) / len(alone)
        for batch in options.batches:
            fast, drawn = audit(pipe, judge, asked, dtype, batch)
            off = [np.abs(pixels(drawn[i]) - pixels(p)) for i, p in enumerate(alone)]
            found[f"{str(dtype).removeprefix('torch.')}, batch {batch}"] = {
                "seconds a picture, plain loop": round(slow, 4),
                "seconds a picture, audit": round(fast, 4),
                "times": round(slow / fast, 2),
                "largest difference of levels": int(max(o.max() for o in off)),
                "share of levels that differ": float(np.mean([np.mean(o > 0) for o in off])),
            }
    told = {
        "command": "python -m benchmarks.audit_loop",
        "settings": vars(options),
        "pictures": len(asked),
        "load": round(os.getloadavg()[0], 1),
        "bar": 3,
        "measured": found,
    }
    OUT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


def pixels(picture: Image.Image) -> np.ndarray:
    """Levels as signed numbers."""
    return np.asarray(picture).astype(int)


if __name__ == "__main__":
    main()
