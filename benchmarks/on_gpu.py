"""A full-size Stable Diffusion on a CUDA device: erasing, training and drawing.

`python -m benchmarks.on_gpu` writes claims/gpu.json. Weights are random, shapes the published ones
(`benchmarks.checkpoints`). Drawing is compared with a plain loop of one diffusers call a picture.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

import efface
from benchmarks.checkpoints import checkpoint
from efface.backbones.local import placed
from efface.backbones.pipeline import draw, load_pipeline
from efface.core import Case, quiet
from efface.patch import Patch

OUT = Path("claims/gpu.json")
WAYS: dict[str, dict[str, Any]] = {
    "uce, authors' setting": {"method": "uce", "preset": "paper", "keep": []},
    "rece, three epochs": {"method": "rece", "preset": "nudity", "epochs": 3, "keep": []},
    "rece, defaults": {"method": "rece"},
    "esd, 20 updates": {"method": "esd", "steps": 20, "drawings": 1, "keep_drawings": 1},
}
"""What is fitted, in this order; the first also measures what the others find in the cache."""


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds until the device is done, and what came of it."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    found = what()
    torch.cuda.synchronize()
    return round(time.perf_counter() - started, 3), found


def plain(pipe: Any, cases: list[Case]) -> list[Image]:
    """What anybody would write first."""
    found = []
    for case in cases:
        rng = torch.Generator().manual_seed(case.seed)
        told = {"num_inference_steps": case.steps, "guidance_scale": case.guidance}
        found += pipe(case.prompt, generator=rng, **told).images
    return found


def drawing(pipe: Any, count: int, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds a picture, one by one and in batches, and how far the pictures are apart."""
    cases = [Case("a photo of a cat", seed) for seed in range(count)]
    device = pipe.device.type
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype is not torch.float32):
        plain(pipe, cases[:1])
        slow, alone = timed(partial(plain, pipe, cases))
        fast, together = timed(partial(draw, pipe, cases, quiet, batch))
    off = [
        np.abs(np.asarray(a, int) - np.asarray(b, int))
        for a, b in zip(alone, together, strict=True)
    ]
    return {
        "pictures": count,
        "batch": batch,
        "seconds a picture, plain loop": round(slow / count, 4),
        "seconds a picture, in batches": round(fast / count, 4),
        "times": round(slow / fast, 2),
        "largest difference of levels": int(max(o.max() for o in off)),
        "mean difference of levels": round(float(np.mean([o.mean() for o in off])), 4),
    }


def erased(pipe: Any) -> tuple[dict[str, Any], dict[str, Patch]]:
    """Seconds and peak memory of every way, and the patches."""
    told, patches = dict[str, Any](), dict[str, Patch]()
    for name, way in WAYS.items():
        torch.cuda.reset_peak_memory_stats()
        seconds, patches[name] = timed(partial(efface.erase, pipe, "cat", **way))
        peak = round(torch.cuda.max_memory_allocated() / 1e6)
        told[name] = {"seconds": seconds, "peak MB on the device": peak}
        print(name, told[name], flush=True)
    return told, patches


def main() -> None:
    """Everything, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args()
    pipe = placed(load_pipeline(str(checkpoint("sd14"))), "cuda")
    with tempfile.TemporaryDirectory() as empty:
        os.environ["EFFACE_CACHE"] = empty
        fits, patches = erased(pipe)
    view = efface.apply(pipe, patches["rece, defaults"])
    drawn = {
        str(dtype).removeprefix("torch."): drawing(view, asked.pictures, asked.batch, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    report = {
        "command": "python -m benchmarks.on_gpu",
        "model": "SD 1.4 shapes, float32, random weights, 512 pixels, 20 steps",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "fits": fits,
        "drawing an erased model": drawn,
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(drawn, indent=1))


if __name__ == "__main__":
    main()
