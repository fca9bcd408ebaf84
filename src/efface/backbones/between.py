"""What is done to latents between a drawing's steps, in any pipeline that calls back after each.

Inpainting: outside a hole the picture is put back, at the noise of the next step (RePaint,
arXiv:2201.09865, equation 8, without its resampling). Completion: the latents of another model's
first steps take the place of the model's own, with what the sampler remembers.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from efface.core import EffaceError

Change = Callable[[Any, int, Any], Any]
"""Pipeline, step, latents after it -> the latents that the next step is given."""


def box(hole: float, wide: int, high: int) -> tuple[int, int, int, int]:
    """The central part whose sides are this share of the whole: left, top, right, bottom."""
    across, down = (max(1, round(hole * side)) for side in (wide, high))
    left, top = (wide - across) // 2, (high - down) // 2
    return left, top, left + across, top + down


def inside(image: Image, hole: float) -> Image:
    """What is in the hole of a picture."""
    return image.crop(box(hole, *image.size))


def put_back(clean: Float[Tensor, "n c h w"], hole: float, seeds: Sequence[int]) -> Change:
    """Outside the hole the latents stay those of the picture; each has its own noise."""
    noise = torch.cat(
        [
            torch.randn(1, *clean.shape[1:], generator=torch.Generator("cpu").manual_seed(seed))
            for seed in seeds
        ]
    )
    kept = _outside(clean.shape[2:], hole)

    def change(pipe: Any, step: int, latents: Tensor) -> Tensor:
        if latents.shape != clean.shape:
            raise EffaceError(
                f"{type(pipe).__name__} packs its latents, {tuple(latents.shape)}: leave "
                "inpainting out"
            )
        times = pipe.scheduler.timesteps
        there = clean.to(latents)
        if step + 1 < len(times):
            noisy = getattr(pipe.scheduler, "scale_noise", None) or pipe.scheduler.add_noise
            at = times[step + 1].expand(len(latents))
            there = noisy(there, noise=noise.to(latents), **_named(noisy, at))
        return torch.where(kept.to(latents.device), there, latents)

    return change


def _named(noisy: Any, at: Tensor) -> dict[str, Tensor]:
    """Samplers call the time "timesteps", those of flows "timestep"."""
    name = "timestep" if "scale_noise" in noisy.__name__ else "timesteps"
    return {name: at}


def _outside(shape: Sequence[int], hole: float) -> Bool[Tensor, "h w"]:
    high, wide = shape
    left, top, right, bottom = box(hole, wide, high)
    kept = torch.ones(high, wide, dtype=torch.bool)
    kept[top:bottom, left:right] = False
    return kept


class Begun(NamedTuple):
    """Where another model's drawing stands after its first steps."""

    latents: Tensor
    sampler: dict[str, Any]
    """What the sampler remembers."""


def begin(artist: DiffusionPipeline, steps: int, **given: Any) -> Begun:
    """The first steps of a drawing."""
    found: list[Begun] = []

    def stop(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == steps - 1:
            found.append(Begun(tensors["latents"].clone(), copy.deepcopy(vars(pipe.scheduler))))
            pipe._interrupt = True
        return tensors

    with torch.no_grad():
        artist(**given, callback_on_step_end=stop, output_type="latent")
    if not found:
        raise EffaceError(f"a drawing has fewer than {steps} steps: let the base model draw fewer")
    return found[0]


def take_over(begun: Begun, steps: int) -> Change:
    """The model goes on from there."""

    def change(pipe: Any, step: int, latents: Tensor) -> Tensor:
        if step != steps - 1:
            return latents
        vars(pipe.scheduler).update(copy.deepcopy(begun.sampler))
        return begun.latents.to(latents)

    return change
