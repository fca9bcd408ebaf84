"""Record `tests/parity/ablation.safetensors`: the authors' choice of parameters, loss, gradients.

From the root, `python tests/parity/record_ablation.py CHECKOUT` with the project's python and a
checkout of nupurkmr9/concept-ablation at c11fb1b (MIT). `create_custom_diffusion` of its diffusers
code is called; its loss stands within a function, whose lines from the text to the sum of losses
are run as they are, on the tiny U-Net. What is imported and not used here is stood in for.
"""

import importlib
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

root = Path(sys.argv[1]).resolve() / "diffusers"
sys.path[:0] = [str(root), str(Path.cwd())]

from tests.parity.golden import lines, stand_in, sums, write  # noqa: E402

stand_in("transformers.CLIPFeatureExtractor", "openai.chat", "torchvision.transforms")

from tests.tiny import build_tiny  # noqa: E402

theirs: Any = importlib.import_module("train")

MOVED, COUNT = 2.0, 2
TIMES = [300, 800]
work = Path(tempfile.mkdtemp())
pipe = StableDiffusionPipeline.from_pretrained(build_tiny(work / "tiny"))
story: dict[str, Any] = {
    "commit": "nupurkmr9/concept-ablation@c11fb1bdc7cd97ea65877b0d41722f5e3ef2561f",
    "model": sums(pipe.unet), "moved": MOVED, "trained": {},
}  # fmt: skip
for group in ("cross-attn", "attn", "full-weight"):
    listed = StableDiffusionPipeline.from_pretrained(work / "tiny").unet
    listed = theirs.create_custom_diffusion(listed, group)
    story["trained"][group] = [n for n, p in listed.named_parameters() if p.requires_grad]

rng = torch.Generator().manual_seed(7)
pictures, noise = (torch.randn(COUNT, 4, 8, 8, generator=rng) for _ in range(2))
times = torch.tensor(TIMES)
scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
noised = scheduler.add_noise(pictures, noise, times)
rows = torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("cat", "dog")]).detach()
held: dict[str, Tensor] = {
    "pictures": pictures, "noise": noise, "noised": noised, "times": times, "rows": rows,
}  # fmt: skip
step = lines(root / "train.py", "# Get the text embedding for conditioning", "accelerator.backward")
concept, anchor = [0] * COUNT, [1] * COUNT
for kind in ("plain", "theirs"):
    unet = StableDiffusionPipeline.from_pretrained(work / "tiny").unet
    if kind == "theirs":
        unet = theirs.create_custom_diffusion(unet, "cross-attn")
    crossed = {n: unet.get_parameter(n) for n in story["trained"]["cross-attn"]}
    for parameter in crossed.values():
        parameter.data.mul_(MOVED)
    for loss_type, prior in (
        ("model-based", 0),
        ("model-based", 1),
        ("noise-based", 0),
        ("noise-based", 1),
    ):
        unet.zero_grad()
        again = 1 + prior
        scope: dict[str, Any] = vars(theirs) | {
            "args": Namespace(loss_type_reverse=loss_type, with_prior_preservation=bool(prior),
                              prior_loss_weight=0.7),
            "unet": unet, "noise_scheduler": scheduler, "text_encoder": lambda ids: (rows[ids],),
            "latents": pictures.repeat(again, 1, 1, 1), "noise": noise.repeat(again, 1, 1, 1),
            "noisy_latents": noised.repeat(again, 1, 1, 1), "timesteps": times.repeat(again),
            "batch": {"input_ids": concept + anchor * prior, "input_anchor_ids": anchor,
                      "mask": torch.ones(COUNT * again, 1, 8, 8)},
        }  # fmt: skip
        exec(step, scope)
        scope["loss"].backward()
        key = f"{kind}/{loss_type}/{prior}"
        held[f"{key}/loss"] = scope["loss"]
        held |= {f"{key}/grad/{n}": p.grad for n, p in crossed.items() if ".mid_block." in f".{n}"}
write("ablation", held, story)
