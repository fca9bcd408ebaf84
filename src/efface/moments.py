"""Moments of drawings: the x_t that trained methods learn from, with what was predicted there.

Every step of a guided drawing needs the predictions with and without the prompt at its x_t. They
are also what an eraser regresses onto, so a drawing by the base model gives, at one batched call a
step, as many examples as it has steps, each with its target. Drawn once, they serve every step of
every method: moments of the base do not depend on training.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn

from efface.backbone import Backbone, Denoiser
from efface.backbones.listen import standing
from efface.cache import cache_folder, forget
from efface.core import NO_WEIGHTS, Encoded, OnStep, Said
from efface.output import write_whole
from efface.tokens import together

REMEMBERED = 16
"""Sets of drawings that the cache keeps."""


class Moments(NamedTuple):
    """What drawings passed through, in no order that matters."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, "n"]
    pair: Int[Tensor, "n"]
    """Which pair of prompts was drawn."""
    named: Float[Tensor, "n c h w"]
    """The output under the prompt."""
    other: Float[Tensor, "n c h w"]
    """The output under what it is guided away from."""
    drawing: Int[Tensor, "n"]
    starts: Float[Tensor, "drawings c h w"]
    """Where each drawing began: pure noise."""
    ends: Float[Tensor, "drawings c h w"]
    """Where each drawing ended, if it was finished."""

    def at(self, index: Int[Tensor, "m"]) -> "Moments":
        """Some of them."""
        taken = {k: getattr(self, k)[index] for k in self._fields[:6]}
        return self._replace(**taken)


def say(model: Backbone, prompts: Sequence[str]) -> Said:
    """Prompts on every stream."""
    return {stream: model.encode(prompts, stream) for stream in model.streams}


def said_by(said: Said, index: Int[Tensor, "m"]) -> Said:
    """The prompts of these numbers, in their order."""
    return {stream: _rows(encoded, index) for stream, encoded in said.items()}


def _rows(encoded: Encoded, index: Int[Tensor, "m"]) -> Encoded:
    states, last, ends, spoken = (x[index] for x in encoded[:4])
    return Encoded(states, last, ends, spoken, encoded.starts)


def beside(*said: Said) -> Said:
    """Prompts after prompts, in one batch."""
    return {stream: together([s[stream] for s in said]) for stream in said[0]}


def spread(count: int, over: int) -> Int[Tensor, "count"]:
    """Which of `over` prompts each of `count` drawings is of: all in turn, or some evenly."""
    each = torch.arange(count)
    return each % over if count >= over else each * over // count


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    named: Said,
    other: Said,
    pair: Int[Tensor, "drawings"],
    *,
    steps: int,
    guidance: float,
    rng: Generator,
    on_step: OnStep,
    weights: Mapping[str, Tensor] = NO_WEIGHTS,
    batch: int = 8,
    first_steps: int | None = None,
) -> Moments:
    """Draw with the model, or with `weights` in it, and keep every step, or the first few.

    Drawing i is of pair `pair[i]` of `named`, guided away from the same of `other`. Each batch
    takes its times anew, somewhere within each of `steps` parts of the schedule.
    """
    found = list[Moments]()
    calls = -(-len(pair) // batch) * steps
    for first in range(0, len(pair), batch):
        which = pair[first : first + batch]
        count = len(which)
        latents = torch.randn(count, *denoiser.shape, generator=rng).to(denoiser.device)
        starts = latents
        both = beside(said_by(named, which), said_by(other, which))
        offset = torch.rand(1, generator=rng).item()
        grid = denoiser.noise.grid(steps, offset)[:first_steps]
        passed = list[Moments]()
        numbers = torch.arange(first, first + count)
        for i, (now, then) in enumerate(zip_longest(grid, grid[1:])):
            on_step("drawing", first // batch * steps + i, calls)
            times = latents.new_full((count,), now)
            doubled = denoiser.predict(latents.repeat(2, 1, 1, 1), times.repeat(2), both, weights)
            ahead, away = doubled.chunk(2)
            empty = latents[:0]
            passed.append(Moments(latents, times, which, ahead, away, numbers, empty, empty))
            clean, noise = denoiser.noise.split(latents, times, away + guidance * (ahead - away))
            latents = clean
            if then is not None:
                alpha, sigma = denoiser.noise.levels(latents.new_full((count,), then))
                latents = alpha * clean + sigma * noise
        found.append(_joined(passed)._replace(starts=starts, ends=latents))
    return _joined(found)


def _joined(parts: Sequence[Moments]) -> Moments:
    return Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))


def remembered(
    denoiser: Denoiser,
    named: Said,
    other: Said,
    pair: Int[Tensor, "drawings"],
    *,
    steps: int,
    guidance: float,
    seed: int,
    on_step: OnStep,
) -> Moments:
    """The base's drawings, from the cache if any method drew the same before."""
    asked = hashlib.sha256(f"{steps} {guidance} {seed} {pair.tolist()}".encode())
    for said in (named, other):
        for encoded in said.values():
            asked.update(encoded.states.numpy().tobytes())
    path = cache_folder() / f"moments-{digest(denoiser)}-{asked.hexdigest()[:16]}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            held = [file.get_tensor(name) for name in Moments._fields]
        # Indices stay on the CPU, where prompts are.
        return Moments(*(t.to(denoiser.device) if t.is_floating_point() else t for t in held))
    except (OSError, SafetensorError):
        pass
    rng = Generator().manual_seed(seed)
    drawn = draw(
        denoiser, named, other, pair, steps=steps, guidance=guidance, rng=rng, on_step=on_step
    )
    _remember(path, drawn)
    return drawn


def _remember(path: Path, drawn: Moments) -> None:
    """Keep it among the last few; a folder that cannot be written costs time later alone."""
    held = {name: t.cpu().contiguous() for name, t in zip(Moments._fields, drawn, strict=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(held))
    except OSError:
        return
    forget("moments", REMEMBERED)


def digest(denoiser: Denoiser) -> str:
    """Tells denoisers apart: a hash of every tensor's sum and sum of squares, and of the noise.

    The tensors of networks that stand in it (gates) count too.
    """
    told = hashlib.sha256(denoiser.noise.key.encode())
    gated = ((name, standing(module)) for name, module in denoiser.module.named_modules())
    beside = [
        (f"{name} {i}", tensor)
        for name, found in gated
        if found is not None
        for i, network in enumerate(found[1].networks)
        if isinstance(network, nn.Module)
        for tensor in network.state_dict().values()
    ]
    for name, tensor in [*((n, denoiser.weight(n)) for n in denoiser.names()), *beside]:
        weight = tensor.detach().double()
        told.update(f"{name} {weight.sum().item()!r} {weight.square().sum().item()!r}".encode())
    return told.hexdigest()[:16]
