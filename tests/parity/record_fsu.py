"""Record `tests/parity/fsu.safetensors`: what the authors train, their loss and its gradients.

From the root, `python tests/parity/record_fsu.py CHECKOUT` with the project's python and a checkout
of fmp453/few-shot-erasing at c0e53da (Apache-2.0). `freeze_and_unfreeze_text_encoder` is called on
CLIP-L's shapes; the loss stands within a function, whose lines from the text to the loss are run as
they are, on the tiny pipeline. What is imported and not used here is stood in for.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel

root = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(root), str(Path.cwd())]

from tests.parity.golden import lines, stand_in, sums, write  # noqa: E402

stand_in("pandas.DataFrame", "torchvision.transforms")

from efface.core import Concept  # noqa: E402
from efface.phrases import judged  # noqa: E402
from tests.tiny import build_tiny  # noqa: E402

theirs: Any = importlib.import_module("train")
utils: Any = importlib.import_module("utils")

COUNT = 2
with torch.device("meta"):
    large = CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ))  # fmt: skip
large = utils.freeze_and_unfreeze_text_encoder(large, method="mlp-final-attn")
sizes = {name: p.numel() for name, p in large.named_parameters()}
trained = [name for name, p in large.named_parameters() if p.requires_grad]

pipe = StableDiffusionPipeline.from_pretrained(build_tiny(Path(tempfile.mkdtemp()) / "tiny"))
prompt = judged(Concept("cat", ("cat",)))[0][0]
words = pipe.tokenizer([prompt] * COUNT, padding="max_length", return_tensors="pt").input_ids
torch.manual_seed(3)  # noqa: TID251 - theirs draws from it
step = lines(root / "train.py", "text_embedding = get_text_embeddings", "optimizer.zero_grad()")
scope: dict[str, Any] = vars(theirs) | {
    "text_encoder": pipe.text_encoder, "tokenized": words, "device": "cpu",
    "image_embedding": torch.randn(COUNT, 4, 8, 8), "unet": pipe.unet.requires_grad_(False),
    "scheduler": PNDMScheduler.from_config(pipe.scheduler.config),
}  # fmt: skip
exec(step, scope)
scope["loss"].backward()
held = {name: scope[name] for name in ("latents", "noise", "timesteps", "noisy_latents", "loss")}
parameters = dict(pipe.text_encoder.named_parameters())
held |= {f"grad/{n}": p.grad for n, p in parameters.items() if ".mlp." in n or ".1.self" in n}
story = {
    "commit": "fmp453/few-shot-erasing@c0e53da54103c5d99f495f6f4cc1eba47adcba3d",
    "sizes": sizes, "trained": trained, "prompt": prompt, "model": sums(pipe.unet),
    "text": sums(pipe.text_encoder),
}  # fmt: skip
write("fsu", held, story)
