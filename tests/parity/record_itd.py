"""Record `tests/parity/itd.safetensors`: codes, features, scores and rows of the authors' gate.

From the root, `python tests/parity/record_itd.py CHECKOUT` with the project's python and a checkout
of NANSirun/Interpret-then-deactivate at 6e8869a (no licence: nothing of it is kept but numbers).
`SparseAutoencoder` is called on made-up weights, whose seed is kept; the choice of features, the
score and what is done to rows stand within functions, whose lines are run as they are.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root / "src")]

from tests.parity.golden import lines, write  # noqa: E402
from tests.parity.made_up import made_up  # noqa: E402

SOURCE = root / "eval_scripts" / "generate_images_scripts" / "generate_images.py"
ERASED, FACTOR, K, EVERY = 2, -8, 16, 4
CHOICE = "def find_the_threshold_for_celebrity"

drawn = made_up()
sae: Any = importlib.import_module("SAE").SparseAutoencoder(
    len(drawn["b_enc"]), len(drawn["b_dec"]), K, None, 1
)
sae.encoder.weight.data, sae.latent_bias.data = drawn["W_enc"].T, drawn["b_enc"]
sae.decoder.weight.data, sae.pre_bias.data = drawn["W_dec"].T, drawn["b_dec"]
rows = drawn["rows"]
scope: dict[str, Any] = {
    "torch": torch, "F": torch.nn.functional, "sae": sae, "print": lambda *told: None,
    "remain_data": list(range(ERASED)), "erase_data": list(range(ERASED, len(rows))),
    "model_run": lambda i: rows[i][None, None],
}  # fmt: skip
exec(lines(SOURCE, "global_top_features = set()", "target = batch_process", after=CHOICE), scope)
features = scope["top_features_set"]
exec(lines(SOURCE, "def get_mse(", "def model_run(", after=CHOICE), scope)
exec(lines(SOURCE, "def strength_with_feature_text_batch", "kwargs = {"), scope)
with torch.no_grad():
    flat = rows.flatten(0, 1)
    values, at = sae.encode(flat).topk(K)
    decoded, _ = sae(flat)
    scores = scope["get_mse"](rows[:, None], features, FACTOR)
    scope["threshold"] = 0.0
    turned = scope["strength_with_feature_text_batch"](sae, features, FACTOR, None, None, (rows,))
held = {
    "values": values, "at": at, "scores": torch.tensor(scores),
    "decoded": decoded[::EVERY], "turned": turned[0][:, 1::EVERY],
}  # fmt: skip
story = {
    "commit": "NANSirun/Interpret-then-deactivate@6e8869ae84d5ea9728d596a911937e2b4c1a6b3d",
    "k": K, "factor": FACTOR, "every": EVERY, "erased": ERASED, "features": sorted(features),
    "sums": {name: w.double().sum().item() for name, w in drawn.items()},
}  # fmt: skip
write("itd", held, story)
