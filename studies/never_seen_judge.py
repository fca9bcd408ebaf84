"""A judge that knows the bundled model's things and some that the model was never taught.

The reporting judge, its last layer widened, trained on for minutes on pictures of both. One style
of each new thing is kept from it, to tell how well it knows them.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, PreTrainedModel

from efface.backbones.checkpoint import bundled
from efface.detectors.judge import Judge
from recipes.emoji.data import CACHE, Pictures, load, on_background
from recipes.emoji.judges import GROUPS, LABELS, Views
from recipes.emoji.latents import composites
from recipes.emoji.world import BACKGROUNDS, STYLES, Thing

UNSEEN = tuple(
    Thing(name, code)
    for name, code in (
        ("saxophone", "1f3b7"),
        ("hourglass", "231b"),
        ("toilet", "1f6bd"),
        ("telescope", "1f52d"),
        ("shoe", "1f460"),
        ("glasses", "1f453"),
        ("alarm clock", "23f0"),
        ("envelope", "2709"),
    )
)
OUT = CACHE / "never-seen"
STEPS, BATCH, RATE = 1200, 64, 1e-3


def unseen() -> Pictures:
    """The new things in every style that draws them."""
    return load(OUT, UNSEEN)


def kept_back(pictures: Pictures) -> np.ndarray:
    """Which pictures the judge is not trained on: one style of each thing, in turn."""
    return pictures.style == pictures.thing % len(STYLES)


def widened() -> PreTrainedModel:
    """The reporting judge with room for the new things behind its own labels."""
    model = AutoModelForImageClassification.from_pretrained(bundled()["emoji"] / "judges/reporting")
    last = model.classifier[-1]
    wide = nn.Linear(last.in_features, last.out_features + len(UNSEEN))
    wide.weight = nn.Parameter(F.pad(last.weight.detach(), (0, 0, 0, len(UNSEEN))))
    wide.bias = nn.Parameter(F.pad(last.bias.detach(), (0, len(UNSEEN))))
    model.classifier[-1] = wide
    names = [*LABELS, *(f"concept:{t.name}" for t in UNSEEN)]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {n: i for i, n in enumerate(names)}
    return model


class Both:
    """Half of a batch of the world, half of the new things, as a judge may meet them."""

    def __init__(self, seed: int) -> None:
        self.views, self.pictures = Views(seed), unseen()
        self.taught = np.flatnonzero(~kept_back(self.pictures))

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Pictures [size, 3, 64, 64] in -1..1, labels [size] among concepts, "nothing" and new."""
        known, labels = self.views.draw(size // 2)
        rng = self.views.rng
        pick = rng.choice(self.taught, size - size // 2)
        ground = rng.integers(len(BACKGROUNDS), size=len(pick))
        fresh = self.views.move(composites(pick, ground, self.pictures))
        coarse = torch.from_numpy(rng.random(len(pick)) < 0.3)
        fresh[coarse] = self.views.code.decode(self.views.code.encode(fresh[coarse]))
        new = torch.from_numpy(self.pictures.thing[pick]) + GROUPS[0]
        return torch.cat([known, fresh]), torch.cat([labels[:, 0], new])


def train() -> Path:
    """The judge's folder; trained on first use."""
    folder = OUT / "judge"
    if (folder / "config.json").is_file():
        return folder
    torch.random.set_rng_state(torch.Generator().manual_seed(33).get_state())
    model, both = widened(), Both(33)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    names = list(model.config.label2id or ())
    concepts = [i for i, n in enumerate(names) if n.startswith("concept:")]
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / STEPS)) / 2
            )
        pictures, labels = both.draw(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pictures.to(memory_format=torch.channels_last)).logits
        loss = F.cross_entropy(logits.float()[:, concepts], labels, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 99:
            print(f"judge {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)
    model.eval().save_pretrained(folder)
    return folder


def known_to(judge: Judge) -> dict[str, list[bool]]:
    """What the judge says of pictures it was not trained on, by what they show."""
    pictures = unseen()
    pick, ground = np.meshgrid(np.flatnonzero(kept_back(pictures)), np.arange(len(BACKGROUNDS)))
    shown = on_grounds(pictures, pick.ravel(), ground.ravel())
    names = [UNSEEN[t].name for t in pictures.thing[pick.ravel()]]
    new = [said == name for said, name in zip(judge.names(shown), names, strict=True)]
    views = Views(44)
    held = np.flatnonzero(views.pictures.held_out)
    world = on_grounds(views.pictures, held, held % len(BACKGROUNDS))
    things = [LABELS[t].partition(":")[2] for t in views.pictures.thing[held]]
    old = [said == name for said, name in zip(judge.names(world), things, strict=True)]
    return {
        "things never seen by the model, in a style the judge never saw": new,
        "the model's": old,
    }


def on_grounds(pictures: Pictures, pick: np.ndarray, ground: np.ndarray) -> list[Image.Image]:
    """Pictures by their index and background index."""
    colours = list(BACKGROUNDS.values())
    return [
        Image.fromarray(on_background(pictures.rgba[i], colours[g]))
        for i, g in zip(pick, ground, strict=True)
    ]
