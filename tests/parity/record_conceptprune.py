"""Record `tests/parity/conceptprune.safetensors`: norms and masks of the authors' two programs.

From the root, `python tests/parity/record_conceptprune.py CHECKOUT` with the project's python and a
checkout of ruchikachavhan/concept-prune at 72927d9 (no licence: nothing of it is kept but numbers).
`main` of `wanda/wanda.py` and of `wanda/save_union_over_time.py` run unchanged on the tiny
pipeline; what loads one is replaced by one that hands it over, and a configuration of ours is read.
"""

import importlib
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root)]

import copy  # noqa: E402

import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from diffusers.models.activations import GEGLU  # noqa: E402

from tests.parity.golden import sums, write  # noqa: E402
from tests.tiny import build_tiny  # noqa: E402

CALLS, LOOKED = 4, 3
RATIOS = (0.125, 0.25)
AGREEING = (0.0, 0.4)
TARGET = "golf ball"
CONFIG = """
hook_module: unet
target: golf ball
base: things
keep_nsfw: false
skill_ratio: 0.25
res_path: results/tiny
model_id: tiny
n_layers: {layers}
gpu: cpu
seed: 0
timesteps: {calls}
dbg: true
"""


class Short(StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline that draws in a few steps."""

    def __call__(self, prompt: str, **more: Any) -> Any:
        return super().__call__(prompt, num_inference_steps=CALLS, **more)


class Handed:
    """Stands for classes that load: hands over a copy."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def from_pretrained(self, *args: Any, **named: Any) -> Any:
        return copy.deepcopy(self.held)


class Lifted:
    """A pipeline's U-Net, moved nowhere."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet

    def to(self, device: str) -> "Lifted":
        return self


work = Path(tempfile.mkdtemp())
pipe = Short.from_pretrained(build_tiny(work / "tiny"))
pipe.set_progress_bar_config(disable=True)
layers = [n for n, m in pipe.unet.named_modules() if n.endswith("ff.net.2")]
(work / "configs").mkdir()
(work / "configs/wanda_config.yaml").write_text(CONFIG.format(layers=len(layers), calls=CALLS))
(work / "datasets").symlink_to(root / "datasets")
os.chdir(work)

union: Any = importlib.import_module("wanda.save_union_over_time")
wanda: Any = importlib.import_module("wanda.wanda")

asked = list[tuple[Any, ...]]()
pipe.unet.register_forward_pre_hook(
    lambda module, args, named: asked.append(
        (args[0].clone(), torch.as_tensor(args[1]).clone(), named["encoder_hidden_states"].clone())
    ),
    with_kwargs=True,
)
wanda.get_sd_model = lambda args: (pipe, len(layers), GEGLU)
plain = Lifted(pipe.unet)
held = dict[str, Any]()
names = sorted(layers)
union.StableDiffusionPipeline = Handed(plain)
union.UNet2DConditionModel = Handed(pipe.unet)
for ratio in RATIOS:
    sys.argv = ["wanda", "--skill_ratio", str(ratio)]
    wanda.main()
    out = work / "results/results_seed_0/tiny/tiny" / TARGET
    for i, name in enumerate(names):
        files = [out / f"skilled_neurons/{ratio}/timestep_{t}_layer_{i}.pkl" for t in range(CALLS)]
        found = [torch.tensor(pickle.loads(file.read_bytes()).toarray()) for file in files]
        held[f"skilled/{ratio}/{name}"] = torch.stack(found).bool()
    for share in AGREEING:
        sys.argv = ["union", "--skill_ratio", str(ratio), "--timesteps", str(LOOKED),
                    "--select_ratio", str(share)]  # fmt: skip
        union.main()
        file = out / f"checkpoints/skill_ratio_{ratio}_timesteps_{LOOKED}_threshold{share}.pt"
        saved = torch.load(file)  # noqa: TID251 - their format
        for name in names:
            held[f"pruned/{ratio}/{share}/{name}"] = saved[f"{name}.weight"] == 0
for side in ("base", "target"):
    norms = torch.load(out / f"{side}_norms.pt")  # noqa: TID251
    for i, name in enumerate(names):
        held[f"norms/{side}/{name}"] = torch.stack([norms[t][i] for t in range(CALLS)])

turns = [asked[i : i + CALLS] for i in range(0, len(asked), CALLS)]
for i, side in enumerate(("base", "target")):
    some = turns[i::2]
    held[f"asked/{side}/latents"] = torch.stack([torch.stack([c[0] for c in t]) for t in some])
    held[f"asked/{side}/rows"] = torch.stack([t[0][2] for t in some])
held["asked/times"] = torch.stack([c[1] for c in turns[0]])
story = {"commit": "ruchikachavhan/concept-prune@72927d9a2b518caed4e5dddd8549d04b168ad5d7",
         "layers": names, "ratios": RATIOS, "agreeing": AGREEING, "looked": LOOKED,
         "model": sums(pipe.unet)}  # fmt: skip
write("conceptprune", held, story)
