"""Two judges of emoji pictures: what thing, what style, what background.

`tuning` (a ResNet) is for choosing settings and as attacks' feedback, `reporting` (a RegNet,
other seed) only for numbers that are published. One logits vector holds three groups, told apart
by label prefix, so the standard image-classification class loads them. "nothing" is a concept: a
plain or noisy field. `python -m recipes.emoji.judges NAME --minutes M` trains one for M minutes,
those before it was stopped included.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from recipes.emoji.data import CACHE, load
from recipes.emoji.latents import LinearCode, composites
from recipes.emoji.resume import Resumable
from recipes.emoji.world import BACKGROUNDS, NAMES, SIZE, STYLES

LABELS = [
    *(f"concept:{n}" for n in (*NAMES, "nothing")),
    *(f"style:{n}" for n in STYLES),
    *(f"background:{n}" for n in BACKGROUNDS),
]
GROUPS = (len(NAMES) + 1, len(STYLES), len(BACKGROUNDS))
BATCH, RATE = 64, 2e-3


def build(name: str) -> PreTrainedModel:
    """The architecture of one judge, about one million parameters."""
    ids = {n: i for i, n in enumerate(LABELS)}
    labels: dict[str, Any] = {"id2label": dict(enumerate(LABELS)), "label2id": ids}
    if name == "tuning":
        return ResNetForImageClassification(
            ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 96, 160],
                depths=[1, 2, 2, 1],
                layer_type="basic",
                downsample_in_first_stage=False,
                **labels,
            )
        )
    return RegNetForImageClassification(
        RegNetConfig(
            embedding_size=32,
            hidden_sizes=[40, 80, 144, 160],
            depths=[1, 2, 2, 1],
            groups_width=160,
            layer_type="y",
            **labels,
        )
    )


class Views:
    """Pictures as a judge may meet them: moved, scaled, softened by a coarse code, noisy."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(seed)
        self.pictures, self.code = load(), LinearCode.load()

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Pictures [size, 3, 64, 64] in -1..1 and labels [size, 3]; style -1 where nothing is."""
        rng, pictures = self.rng, self.pictures
        pick = rng.integers(len(pictures.thing), size=size)
        ground = rng.integers(len(BACKGROUNDS), size=size)
        images = composites(pick, ground)
        labels = np.stack([pictures.thing[pick], pictures.style[pick], ground], 1)
        images = self.move(images)
        empty = torch.from_numpy(rng.random(size) < 0.04)
        images[empty] = images[empty][:, :, :1, :1].expand(-1, -1, SIZE, SIZE)
        labels[empty.numpy(), 0], labels[empty.numpy(), 1] = len(NAMES), -1
        coarse = torch.from_numpy(rng.random(size) < 0.3)
        images[coarse] = self.code.decode(self.code.encode(images[coarse]))
        level = (
            torch.from_numpy(rng.random(size) < 0.4) * torch.rand(size, generator=self.torch) * 0.2
        )
        images = images + level[:, None, None, None].float() * torch.randn(
            images.shape, generator=self.torch
        )
        return images.clamp(-1, 1), torch.from_numpy(labels)

    def move(self, images: Tensor) -> Tensor:
        """Scale by up to 12 %, shift by up to 3 pixels, edges repeated."""
        n = len(images)
        scale = torch.from_numpy(self.rng.uniform(0.88, 1.12, n)).float()
        shift = torch.from_numpy(self.rng.uniform(-3, 3, (n, 2)) * 2 / SIZE).float()
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, shift
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(name: str, minutes: float) -> None:
    """Train with a rate that anneals over `minutes`; the result goes to the training cache."""
    out = CACHE / "judges" / name
    seed = {"tuning": 11, "reporting": 22}[name]
    torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    model = build(name)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    run = Resumable(out / "state.pt", model=model, optimiser=optimiser)
    views, started, before = Views(seed + run.step), time.time(), run.minutes
    right: list[list[float]] = []
    while (spent := before + (time.time() - started) / 60) < minutes:
        for group in optimiser.param_groups:
            group["lr"] = (
                RATE * min(1, (run.step + 1) / 100) * (1 + math.cos(math.pi * spent / minutes)) / 2
            )
        images, labels = views.draw(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.to(memory_format=torch.channels_last)).logits
        parts = logits.float().split(GROUPS, 1)
        weights = (1.0, 0.7, 0.3)
        loss: Any = sum(
            w * F.cross_entropy(p, labels[:, k], ignore_index=-1, label_smoothing=0.05)
            for k, (p, w) in enumerate(zip(parts, weights, strict=True))
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        run.step, run.minutes = run.step + 1, spent
        right.append(
            [(p.argmax(1) == labels[:, k]).float().mean().item() for k, p in enumerate(parts)]
        )
        if run.step % 100 == 0:
            run.save()
            print(
                f"{name} {run.step * BATCH} right {np.mean(right[-50:], 0).round(3)} "
                f"{spent:.1f} min",
                flush=True,
            )
    model.eval().save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("tuning", "reporting"))
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    Path(CACHE / "judges").mkdir(parents=True, exist_ok=True)

    train(options.name, options.minutes)
