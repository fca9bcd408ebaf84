"""Unpack the shipped model into the training cache, to train on from it on a new machine.

`python -m recipes.emoji.restore`, then any stage. The optimiser's moments are not shipped: the
denoiser warms up again from the averaged weights. Refuses to touch a cache that already holds a
part.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoModelForImageClassification, CLIPTextModel, CLIPTokenizer

from recipes.emoji.assemble import TARGET
from recipes.emoji.autoencoder import OUT as AUTOENCODER
from recipes.emoji.data import CACHE
from recipes.emoji.denoiser import DESIGN
from recipes.emoji.text import OUT as TEXT
from recipes.emoji.training import Design, Trainer


def restore() -> None:
    """Text model, autoencoder, denoiser and judges, in float32."""
    if any(p.exists() for p in (TEXT, AUTOENCODER, DESIGN.out)):
        raise FileExistsError(f"{CACHE} already holds trained parts: move them away first")
    wide = {"dtype": torch.float32}
    CLIPTextModel.from_pretrained(TARGET / "text_encoder", dtype=torch.float32).save_pretrained(
        TEXT
    )
    CLIPTokenizer.from_pretrained(TARGET / "tokenizer").save_pretrained(TEXT)
    AutoencoderKL.from_pretrained(TARGET / "vae", **wide).save_pretrained(AUTOENCODER / "model")
    for judge in sorted((TARGET / "judges").iterdir()):
        model = AutoModelForImageClassification.from_pretrained(judge, dtype=torch.float32)
        model.save_pretrained(CACHE / "judges" / judge.name)
    begin_again(DESIGN, UNet2DConditionModel.from_pretrained(TARGET / "unet", **wide), TARGET)


def begin_again(design: Design, shipped: Any, folder: Path) -> None:
    """A training state of the shipped weights, all moments forgotten."""
    run = Trainer(design, seed=0)
    run.model.load_state_dict(shipped.state_dict())
    run.average = {k: v.clone() for k, v in run.model.state_dict().items()}
    story = json.loads((folder / "training.json").read_text())
    run.samples, run.minutes = story["samples"], story["denoiser minutes"]
    run.step = run.samples // design.batch
    run.save()


if __name__ == "__main__":
    restore()
