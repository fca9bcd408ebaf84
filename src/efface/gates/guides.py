"""Guides: gates that stand between a guided prediction's two halves and the pipeline.

Classifier-free guidance draws with e₀ + s (e_p − e₀), e₀ the prediction without the prompt and e_p
with it (arXiv 2207.12598, Eq. 6). `NegativeGuide` asks for e₀ under the concept instead.
`SafeGuide` subtracts from e_p what points to the concept, Safe Latent Diffusion (arXiv 2211.05105,
Eq. 3-8), which is the same as subtracting it inside the brackets, whatever s is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.core import EffaceError

STREAMS = ("text", "pooled")
MASK = "text.attended"
"""Name of the tensor that says which rows of the text the denoiser attends to."""


class Rows(NamedTuple):
    """The concept as the denoiser reads it."""

    text: Float[Tensor, "1 tokens width"]
    attended: Bool[Tensor, "1 tokens"]
    pooled: Float[Tensor, "1 1 wide"] | None


def rows_of(tensors: Mapping[str, Tensor]) -> Rows:
    """The rows that a gate brings."""
    text, attended, pooled = (tensors.get(n) for n in ("text", MASK, "pooled"))
    whole = text is not None and text.ndim == 3 and len(text) == 1 and text.is_floating_point()
    if not whole or attended is None or attended.shape != text.shape[:2]:  # type: ignore[union-attr]
        raise EffaceError("does not bring the rows of one prompt")
    if pooled is not None and (pooled.ndim != 3 or pooled.shape[:2] != (1, 1)):
        raise EffaceError("does not bring one pooled row")
    assert text is not None
    return Rows(text, attended.bool(), pooled)


@dataclass
class Course:
    """What a guide remembers within one drawing."""

    first: float
    """Time of its first call."""
    last: float
    calls: int = 0
    momentum: Tensor = field(default_factory=lambda: torch.zeros(()))


@dataclass(frozen=True, eq=False)
class NegativeGuide:
    """e₀ is what the denoiser predicts under the concept, whatever was asked to be negative."""

    rows: Rows

    @classmethod
    def build(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "NegativeGuide":
        """Of the tensors a patch brings."""
        return cls(rows_of(tensors))


@dataclass(frozen=True, eq=False)
class SafeGuide:
    """Safe Latent Diffusion."""

    rows: Rows
    scale: float
    """s_S"""
    threshold: float
    """λ"""
    warmup: int
    """δ"""
    momentum_scale: float
    """s_m"""
    momentum_decay: float
    """β_m"""

    @classmethod
    def build(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "SafeGuide":
        """Of the settings and tensors a patch brings."""
        names = ("scale", "threshold", "warmup", "momentum_scale", "momentum_decay")
        found = {name: settings.get(name) for name in names}
        if lost := [n for n, v in found.items() if not isinstance(v, int | float)]:
            raise EffaceError(f"has no number {lost[0]!r}")
        return cls(rows_of(tensors), **found)  # type: ignore[arg-type]

    def away(
        self,
        course: Course,
        empty: Float[Tensor, "batch c h w"],
        prompted: Float[Tensor, "batch c h w"],
        concept: Float[Tensor, "batch c h w"],
    ) -> Float[Tensor, "batch c h w"]:
        """γ, to be subtracted from the prompted prediction; ν goes on in the course."""
        apart = prompted - concept
        phi = (apart.abs() * self.scale).clamp(max=1)  # Eq. 6
        mu = torch.where(apart < self.threshold, phi, 0.0)  # Eq. 5
        gamma = mu * (concept - empty) + self.momentum_scale * course.momentum  # Eq. 4, 7
        decay = self.momentum_decay
        course.momentum = decay * course.momentum + (1 - decay) * gamma  # Eq. 8
        return gamma if course.calls >= self.warmup else torch.zeros_like(gamma)


Guide = NegativeGuide | SafeGuide
