"""How well a denoiser restores noised pictures under a prompt: its own training loss.

x_t = α x₀ + σ ε at a time t, and |f(x_t, t, rows) − target|² in what the network puts out: the
noise where it predicts noise, v or the flow where it predicts these.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Denoiser
from efface.core import NO_WEIGHTS, Case, EffaceError, Said
from efface.picture_files import open_picture


class Noised(NamedTuple):
    """Pictures on their way to noise, with what the network should put out."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, "n"]
    output: Float[Tensor, "n c h w"]


def noised(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    times: Float[Tensor, "n"],
    rng: Generator,
) -> Noised:
    """Pictures with noise drawn on the CPU."""
    times = times.to(clean.device)
    noise = torch.randn(clean.shape, generator=rng).to(clean.device)
    alpha, sigma = denoiser.noise.levels(times)
    output = denoiser.noise.joined(clean, noise, times)
    return Noised(alpha * clean + sigma * noise, times, output)


def misfit(
    denoiser: Denoiser, seen: Noised, said: Said, weights: Mapping[str, Tensor] = NO_WEIGHTS
) -> Float[Tensor, "n"]:
    """Mean squared error of each; differentiable in the rows said and in `weights`."""
    off = denoiser.predict(seen.latents, seen.times, said, weights) - seen.output
    return off.square().flatten(1).mean(1)


def shown(denoiser: Denoiser, case: Case, picture: str | None) -> Float[Tensor, "1 c h w"]:
    """The latent of a picture that shows the concept: a file, or the base model's of the case."""
    file = case.start if picture is None else Path(picture)
    if file is None:
        raise EffaceError("there is no picture of the concept: give one as the attack's setting")
    return denoiser.latents([open_picture(file)])
