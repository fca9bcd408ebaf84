"""Noise schedules: x_t = α x₀ + σ ε, and what a denoiser's output says of x₀ and ε.

Whatever sampler a pipeline uses, its denoiser was trained at these levels. Sampling without fresh
noise (DDIM, arXiv 2010.02502, Eq. 12; Euler for flow matching) is then one formula for all
families: the next latent is α' x₀ + σ' ε, with x₀ and ε read from the output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.core import EffaceError

Output = Literal["epsilon", "v_prediction", "sample"]
OUTPUTS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class Diffusion:
    """α² + σ² = 1 at whole times; the output is ε, v = α ε − σ x₀, or x₀."""

    kept: Float[Tensor, "times"]
    """ᾱ = α² at every time."""
    output: Output

    @property
    def key(self) -> str:
        """Tells schedules apart."""
        return f"{self.output} {len(self.kept)} {self.kept.double().sum().item()!r}"

    def levels(self, times: Float[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
        """α and σ."""
        kept = self.kept.to(times.device)[times.long()][:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def grid(self, steps: int, offset: float = 0.0) -> list[float]:
        """Whole times, one in each of `steps` equal parts, latest first."""
        count = len(self.kept)
        return [float(int((k + offset) * count / steps)) for k in reversed(range(steps))]

    def anywhen(self, count: int, rng: Generator) -> Float[Tensor, "count"]:
        """Times at random."""
        return torch.randint(len(self.kept), (count,), generator=rng).float()

    def split(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        output: Float[Tensor, "batch c h w"],
    ) -> tuple[Tensor, Tensor]:
        """x₀ and ε as the output says."""
        alpha, sigma = self.levels(times)
        match self.output:
            case "epsilon":
                return (latents - sigma * output) / alpha, output
            case "v_prediction":
                return alpha * latents - sigma * output, alpha * output + sigma * latents
            case "sample":
                return output, (latents - alpha * output) / sigma

    def joined(
        self,
        clean: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """The output that says x₀ and ε."""
        alpha, sigma = self.levels(times)
        return {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}[
            self.output
        ]


@dataclass(frozen=True, eq=False)
class Flow:
    """α = 1 − σ with σ = t / count; the output is ε − x₀."""

    count: int
    shift: float
    """Above 1, drawings spend more of their steps where it is noisy."""

    @property
    def key(self) -> str:
        """Tells schedules apart."""
        return f"flow {self.count} {self.shift}"

    def levels(self, times: Float[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
        """α and σ."""
        sigma = (times / self.count)[:, None, None, None]
        return 1 - sigma, sigma

    def grid(self, steps: int, offset: float = 0.0) -> list[float]:
        """Times from noise to picture."""
        even = [1 - (k + offset * (k > 0)) / steps for k in range(steps)]
        return [self.count * self.shift * s / (1 + (self.shift - 1) * s) for s in even]

    def anywhen(self, count: int, rng: Generator) -> Float[Tensor, "count"]:
        """Times at random."""
        return self.count * torch.rand(count, generator=rng)

    def split(
        self,
        latents: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
        output: Float[Tensor, "batch c h w"],
    ) -> tuple[Tensor, Tensor]:
        """x₀ and ε as the output says."""
        alpha, sigma = self.levels(times)
        return latents - sigma * output, latents + alpha * output

    def joined(
        self,
        clean: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch c h w"],
        times: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """The output that says x₀ and ε."""
        return noise - clean


def noise_of(name: str, config: Mapping[str, Any]) -> Diffusion | Flow:
    """The schedule that a scheduler's class and config tell of."""
    output = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or output == "flow_prediction":
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        return Flow(int(config.get("num_train_timesteps", 1000)), float(shift))
    if output not in OUTPUTS:
        raise EffaceError(
            f"its scheduler says the denoiser predicts {output!r}: efface trains denoisers that "
            f"predict {', '.join(OUTPUTS)} or a flow"
        )
    from diffusers import DDIMScheduler

    told = {k: v for k, v in config.items() if k in BETAS}
    return Diffusion(DDIMScheduler(**told).alphas_cumprod, output)


BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""What a scheduler's config says of the levels of noise."""
