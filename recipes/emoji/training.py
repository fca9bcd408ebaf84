"""The training run of a denoiser: v-prediction on captions encoded once, resumable, averaged.

What differs between the models is a `Design`. Learning rate: warm-up, then constant, then a
cool-down anneals it to zero over the last minutes. Under `torchrun` each process draws its share of
a batch and gradients are averaged: on a busy machine processes wait for each other once a step,
threads at every operation.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from recipes.emoji.latents import LinearCode, picture_latents
from recipes.emoji.text import Batches

WARM_UP, EMPTY, FOLLOW = 500, 0.1, 5
Encode = Callable[[list[str]], Mapping[str, Tensor]]
"""Captions to what the denoiser reads of them, by the names of its forward pass."""


@dataclass(frozen=True)
class Design:
    """One model's own: its name in the pipeline, its folder, how it is built and what it reads."""

    component: str
    out: Path
    build: Callable[[], Any]
    encoder: Callable[[], Encode]
    optimiser: Callable[[Any], torch.optim.Optimizer]
    batch: int
    captions: int
    """Encoded at the start of a run and drawn from to its end."""
    average: float
    """Most of the averaged weights that a change keeps."""
    ready: Callable[[Any], Any]
    """The model as the loop runs it, sharing its weights."""


def scheduler() -> DDIMScheduler:
    """Cosine noise, v-prediction, last step at pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True)
class Team:
    """The processes of a run."""

    rank: int
    size: int

    @classmethod
    def join(cls) -> "Team":
        """As torchrun numbers them; one without it."""
        if "WORLD_SIZE" not in os.environ:
            return cls(0, 1)
        distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def wrapped(self, forward: Any) -> Any:
        """A model whose gradients are the average over all."""
        return DistributedDataParallel(forward) if self.size > 1 else forward

    def clock(self, minutes: float) -> float:
        """The first's time, so that all stop at the same step."""
        told = torch.tensor([minutes], dtype=torch.float64)
        if self.size > 1:
            distributed.broadcast(told, 0)
        return told.item()


class Trainer:
    """Everything a resumed run needs, in one file."""

    def __init__(self, design: Design, seed: int) -> None:
        torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        self.design, self.model = design, design.build()
        self.model.set_attn_processor(AttnProcessor())
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimiser = design.optimiser(self.model)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.step, self.samples, self.minutes = 0, 0, 0.0
        self.path = design.out / "state.pt"
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)  # noqa: TID251 (our own file)
            self.model.load_state_dict(state[design.component])
            self.average = state["average"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.minutes = state["step"], state["minutes"]
            self.samples = state.get("samples", self.step * design.batch)  # older runs counted none

    def save(self) -> None:
        """Write the whole state under a temporary name, then rename."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            self.design.component: self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "minutes": self.minutes,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def follow(self) -> None:
        """Move the averaged weights towards the current ones; called every `FOLLOW` steps."""
        keep = min(self.design.average, (1 + self.step) / (10 * FOLLOW + self.step))
        names = list(self.average)
        state = self.model.state_dict()
        torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], 1 - keep)

    def averaged(self) -> Any:
        """A model with the averaged weights."""
        model = self.design.build()
        model.load_state_dict(self.average)
        return model


class Pool:
    """Captions encoded once, each with its picture and background; one in ten is empty."""

    def __init__(self, encode: Encode, size: int, seed: int) -> None:
        batches = Batches(seed)
        texts, self.pick, self.ground, _, _ = batches.draw(size)
        texts = [
            "" if r < EMPTY else t for r, t in zip(batches.rng.random(size), texts, strict=True)
        ]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            parts = [encode(texts[i : i + 256]) for i in range(0, size, 256)]
        self.given = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def train(design: Design, minutes: float, cool_down: float) -> None:
    """Train for `minutes` of wall time, saving every four."""
    team, run = Team.join(), Trainer(design, seed=0)
    batch, seed = design.batch // team.size, run.step + 1_000_000 * team.rank
    latents = picture_latents(LinearCode.load())
    pool = Pool(design.encoder(), design.captions // team.size, seed=1000 + seed)
    rng = np.random.default_rng(seed)
    alphas = scheduler().alphas_cumprod
    generator = torch.Generator().manual_seed(seed)
    forward: Any = team.wrapped(design.ready(run.model))
    started = saved = time.time()
    before, seen, losses = run.minutes, 0, []
    while (spent := team.clock((time.time() - started) / 60)) < minutes:
        run.minutes = before + spent
        share = min(1, (run.step + 1) / WARM_UP)
        if cool_down:
            share *= min(1.0, max(minutes - spent, 0) / cool_down)
        for group, rate in zip(run.optimiser.param_groups, run.rates, strict=True):
            group["lr"] = rate * share
        chosen = rng.integers(len(pool.pick), size=batch)
        given = {name: rows[torch.from_numpy(chosen)] for name, rows in pool.given.items()}
        clean = latents[torch.from_numpy(pool.pick[chosen]), torch.from_numpy(pool.ground[chosen])]
        noise = torch.randn(clean.shape, generator=generator)
        spread = (
            torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)
        ) / batch
        t = (spread * 1000).long()
        signal = alphas[t].sqrt()[:, None, None, None]
        sigma = (1 - alphas[t]).sqrt()[:, None, None, None]
        noisy = signal * clean + sigma * noise
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(noisy, timestep=t, **given).sample
        loss = (out.float() - (signal * noise - sigma * clean)).square().mean()
        run.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        run.samples += design.batch
        if run.step % FOLLOW == 0:
            run.follow()
        seen += design.batch
        losses.append(loss.item())
        if run.step % 50 == 0 and team.rank == 0:
            pace = (time.time() - started) / seen * 1e3
            print(
                f"{run.samples} loss {np.mean(losses[-50:]):.4f} {pace:.1f} ms/sample",
                flush=True,
            )
        if time.time() - saved > 240 and team.rank == 0:
            run.save()
            saved = time.time()
    if team.rank == 0:
        run.save()
    if team.size > 1:
        distributed.destroy_process_group()


def command(design: Design, about: str | None) -> None:
    """The command line of a denoiser's recipe."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--cool-down", type=float, default=0.0)
    options = parser.parse_args()
    train(design, options.minutes, options.cool_down)
