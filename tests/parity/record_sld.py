"""Record `tests/parity/sld.safetensors`: latents of drawings that the authors' pipeline guided.

From the root, `python tests/parity/record_sld.py CHECKOUT` with the project's python and a checkout
of ml-research/safe-latent-diffusion at a42923c (MIT). Their `SLDPipeline` is built of the tiny
pipeline's parts and called as it is, its concept set to a harmless one.
"""

import importlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines import pipeline_utils

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path.cwd()), str(root / "src")]

from tests.parity.golden import stand_in, sums, write  # noqa: E402

stand_in("transformers.CLIPFeatureExtractor")
sys.modules["diffusers.pipeline_utils"] = pipeline_utils  # where it was when they wrote

from tests.tiny import build_tiny  # noqa: E402

SLDPipeline: Any = importlib.import_module("sld").SLDPipeline

STEPS, SEED, GUIDANCE, PROMPTS = 20, 3, 7.5, ["cat", "a house"]
PRESETS = {
    "weak": (200, 15, 0.0, 0.0, 0.0),
    "medium": (1000, 10, 0.01, 0.3, 0.4),
    "strong": (2000, 7, 0.025, 0.5, 0.7),
    "max": (5000, 0, 1.0, 0.5, 0.7),
}
"""Scale, warm-up, threshold, momentum's scale and β, as the paper's four are told."""
pipe = StableDiffusionPipeline.from_pretrained(build_tiny(Path(tempfile.mkdtemp()) / "tiny"))
pipe.unet.in_channels = pipe.unet.config.in_channels  # likewise
model, text = sums(pipe.unet), sums(pipe.text_encoder)
held = dict[str, Any]()
theirs = SLDPipeline(**{k: pipe.components[k] for k in (
    "vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor",
)})  # fmt: skip
theirs.safety_concept = "dog"
theirs.set_progress_bar_config(disable=True)
noise = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
CASES = {**PRESETS, "off": (0, 0, 0.0, 0.0, 0.0)}
for dtype, (name, case) in itertools.product((torch.float32, torch.float64), CASES.items()):
    theirs.to(dtype)
    scale, warmup, threshold, momentum, beta = case
    found = list[torch.Tensor]()
    with torch.no_grad():
        theirs(
            PROMPTS, height=64, width=64, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
            latents=noise.to(dtype), output_type="np", sld_guidance_scale=scale,
            sld_warmup_steps=warmup, sld_threshold=threshold, sld_momentum_scale=momentum,
            sld_mom_beta=beta,
            callback=lambda i, t, latents, found=found: found.append(latents),
        )  # fmt: skip
    at = sorted({max(0, warmup - 1), warmup, STEPS - 1})
    held[f"{dtype}/{name}"] = torch.stack([found[i] for i in at])
story = {
    "commit": "ml-research/safe-latent-diffusion@a42923c3de0e4346bee3f61891a510bdcc2aedd2",
    "steps": STEPS, "seed": SEED, "guidance": GUIDANCE, "prompts": PROMPTS, "concept": "dog",
    "model": model, "text": text, "presets": PRESETS,
}  # fmt: skip
write("sld", held, story)
