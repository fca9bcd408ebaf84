"""Put the trained parts together as an ordinary diffusers folder, in half precision.

`python -m recipes.emoji.assemble` writes `src/efface/models/emoji`: the pipeline, `concepts.json`
(the words the model knows) and the two judges under `judges/`.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import AutoModelForImageClassification, CLIPTextModel, CLIPTokenizer

from recipes.emoji.autoencoder import OUT as AUTOENCODER
from recipes.emoji.data import CACHE
from recipes.emoji.denoiser import DESIGN
from recipes.emoji.text import OUT as TEXT
from recipes.emoji.training import Trainer, scheduler
from recipes.emoji.world import BACKGROUNDS, NAMES, SIZE, STYLES, THINGS

TARGET = Path("src/efface/models/emoji")
Story = Mapping[str, float]
"""What `training.json` says."""


def assemble(unet: UNet2DConditionModel, training: Story) -> None:
    """The pipeline with its judges."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(AUTOENCODER / "model"),
        text_encoder=CLIPTextModel.from_pretrained(TEXT),
        tokenizer=CLIPTokenizer.from_pretrained(TEXT),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write(pipe, training, TARGET, judges)


def write(
    pipe: DiffusionPipeline, training: Story, target: Path, more: Callable[[Path], None]
) -> None:
    """Write a model's folder next to its place, with `more` in it, then swap it in."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(fresh)
    load_wide(fresh / "text_encoder")
    words = {
        "concepts": list(NAMES),
        "styles": [f"{s} style" for s in STYLES],
        "backgrounds": [f"{b} background" for b in BACKGROUNDS],
    }
    (fresh / "concepts.json").write_text(json.dumps(words, indent=1) + "\n")
    others = {t.name: list(t.aka) for t in THINGS if t.aka}
    (fresh / "synonyms.json").write_text(json.dumps(others, indent=1) + "\n")
    (fresh / "training.json").write_text(json.dumps(training, indent=1) + "\n")
    more(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


def judges(folder: Path) -> None:
    """Both judges, with how they read a picture."""
    for name in ("tuning", "reporting"):
        judge = AutoModelForImageClassification.from_pretrained(CACHE / "judges" / name)
        judge.half().save_pretrained(folder / "judges" / name)
        load_wide(folder / "judges" / name)
        picture = {"do_resize": True, "size": {"height": SIZE, "width": SIZE}, "do_normalize": True}
        scale = {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
        }
        (folder / "judges" / name / "preprocessor_config.json").write_text(
            json.dumps(picture | scale | {"image_processor_type": "ViTImageProcessor"}, indent=1)
            + "\n"
        )


def load_wide(folder: Path) -> None:
    """Have a transformers model load in float32 unless asked otherwise, as diffusers' parts do."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2) + "\n")


def story(run: Trainer) -> Story:
    """How long the denoiser has trained."""
    return {"samples": run.samples, "denoiser minutes": round(run.minutes, 1)}


if __name__ == "__main__":
    run = Trainer(DESIGN, seed=0)
    assemble(run.averaged(), story(run))
