"""Record `tests/parity/speed.safetensors`: matrices that the authors' own solve edits.

From the root, `python tests/parity/record_speed.py CHECKOUT` with the project's python and a
checkout of Ouxiang-Li/SPEED at 6d3df0c (Apache-2.0). `edit_model` of `train_erase_null.py` runs
unchanged on the tiny pipeline, in float32 as they do and with PyTorch's default type a float64.
Two things it calls are handed to it: clusters of the empty prompt's rows (a package that is not
here: the evenly taken rows that ours holds), and, where the filter is recorded, the noisy copies of
kept rows (none, for ours has none).
"""

import importlib
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root)]

from tests.parity.golden import stand_in, sums, write  # noqa: E402

stand_in("kmeans_pytorch.kmeans", "pandas.read_csv")

from tests.tiny import WIDTH, build_tiny  # noqa: E402

theirs: Any = importlib.import_module("train_erase_null")

FIXED = 4
CASES: dict[str, dict[str, Any]] = {
    "one": {"erase": ["cat"], "toward": ["dog"], "threshold": 0.4, "filter": False},
    "many": {"erase": ["cat", "big house"], "toward": ["dog", ""], "threshold": 0.4,
             "filter": False, "retain_scale": 0.1, "lamb": 0.5},
    "filtered": {"erase": ["cat"], "toward": [""], "threshold": 0.03, "filter": True},
}  # fmt: skip
KEPT = ["tree", "a red car", "the sea", "old boat", "bird", "wood", "a fine day", "xylophone"]


def clusters(X: Tensor, num_clusters: int, **told: Any) -> tuple[None, Tensor]:
    """Rows evenly taken, the start token aside."""
    return None, X[torch.linspace(0, len(X), num_clusters + 1).long()[1:] - 1]


theirs.kmeans = clusters
theirs.generate_perturbed_embs = lambda rows, *told, **more: rows[:0]
pipe = StableDiffusionPipeline.from_pretrained(build_tiny(Path(tempfile.mkdtemp()) / "tiny"))
story = {
    "commit": "Ouxiang-Li/SPEED@6d3df0c92266b1f821d613c73ec45d242716f990",
    "model": sums(pipe.unet), "text": sums(pipe.text_encoder), "kept": KEPT, "cases": CASES,
}  # fmt: skip
held = dict[str, Tensor]()
for dtype in (torch.float32, torch.float64):
    torch.set_default_dtype(dtype)
    pipe.text_encoder, pipe.unet = pipe.text_encoder.to(dtype), pipe.unet.to(dtype)
    for name, case in CASES.items():
        told = Namespace(
            params="V", aug_num=int(case["filter"]), disable_filter=False,
            threshold=case["threshold"], retain_scale=case.get("retain_scale", 1.0),
            lamb=case.get("lamb", 0.0),
        )  # fmt: skip
        theirs.seed_everything(0)  # as their program does: kept rows are shuffled
        edited = theirs.edit_model(
            told, pipe, case["erase"], case["toward"], KEPT, "SPEED", emb_size=WIDTH, device="cpu"
        )
        key = str(dtype).removeprefix("torch.")
        held |= {f"{key}/{name}/{layer}": weight for layer, weight in edited.items()}
write("speed", held, story)
