"""Samplers that put fresh noise in at every step, in any pipeline.

With x̂₀ and ε̂ read from the denoiser's output at levels α, σ, the next latent at α', σ' is
α' x̂₀ + √|σ'² − η²s²| ε̂ + v η s z, z fresh, where s² = (σ'/σ)² (σ² − (α/α')² σ'²) is the variance
of the next latent given this one and x₀ (DDIM, arXiv:2010.02502, equations 12 and 16, written for
any α and σ). η = 0 is the sampler without fresh noise, η = 1 at v = 1 is DDPM. Further up the root
would be of a negative number; arXiv:2505.17013 takes its magnitude, and so more noise than the next
step expects.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from efface.backbones.noise import Diffusion, noise_of


class Churn(NamedTuple):
    """How much fresh noise, and where it comes from."""

    amount: float
    """η."""
    scale: float
    """v."""
    generators: Sequence[Generator]
    """One a picture, on the CPU."""

    def mixed(
        self,
        clean: Tensor,
        noise: Tensor,
        now: tuple[float, float],
        then: tuple[float, float],
    ) -> Tensor:
        """The next latents; `now` and `then`: α and σ of these and of the next."""
        (alpha, sigma), (after, left) = now, then
        spread = left**2 / sigma**2 * max(0.0, sigma**2 - (alpha * left / after) ** 2)
        held = abs(left**2 - self.amount**2 * spread) ** 0.5
        fresh = torch.cat(
            [torch.randn(1, *clean.shape[1:], generator=rng) for rng in self.generators]
        ).to(clean)
        return after * clean + held * noise + self.scale * self.amount * spread**0.5 * fresh


class Churned(DDIMScheduler):  # type: ignore[misc]
    """DDIM, its latents neither clipped nor thresholded."""

    churn: Churn

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool = True
    ) -> Any:
        """One step."""
        time = int(timestep)
        before = time - self.config.num_train_timesteps // self.num_inference_steps
        kept = float(self.alphas_cumprod[time])
        after = float(self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod)
        noise = Diffusion(self.alphas_cumprod, self.config.prediction_type)
        times = torch.full((len(sample),), float(time), device=sample.device)
        clean, left = noise.split(sample.float(), times, model_output.float())
        levels = [(level**0.5, (1 - level) ** 0.5) for level in (kept, after)]
        return (self.churn.mixed(clean, left, *levels).to(sample.dtype), clean.to(sample.dtype))


class ChurnedFlow(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler's steps of a flow."""

    churn: Churn

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool = True
    ) -> Any:
        """One step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        now, then = (float(self.sigmas[self.step_index + i]) for i in (0, 1))
        flow, latents = model_output.float(), sample.float()
        clean, left = latents - now * flow, latents + (1 - now) * flow
        self._step_index += 1
        new = self.churn.mixed(clean, left, (1 - now, now), (1 - then, then))
        return (new.to(sample.dtype), clean.to(sample.dtype))


def churned(pipe: DiffusionPipeline, churn: Churn) -> DiffusionPipeline:
    """The same parts with such a sampler, at the times and levels that the model was trained at."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    noise = noise_of(name, config)
    sampler: Any
    if isinstance(noise, Diffusion):
        sampler = Churned.from_config(config)
    elif name.startswith("FlowMatch"):
        sampler = ChurnedFlow.from_config(config)
    else:
        sampler = ChurnedFlow(noise.count, noise.shift)
    sampler.churn = churn
    other = copy.copy(pipe)
    other.scheduler = sampler
    return other
