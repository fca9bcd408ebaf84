"""SLD: Safe Latent Diffusion, guidance with a term that points away from the concept. A baseline.

Schramowski et al., "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion
Models", arXiv 2211.05105, CVPR 2023, Eq. 3-8: each step asks the denoiser a third time, under the
concept, and subtracts γ where the prompted prediction is near the concept's (see
`efface.gates.guides`). Nothing is trained and no weight changes; drawing takes half as long again.

Deviations from the authors' code: it is applied to what the network puts out, noise or not. The
momentum is none at a drawing's first call. Their long list of unsafe notions is the concept's own
phrases here. It is no erasure of a model: unguided drawing, and whoever leaves the patch out, see
the concept.
"""

from dataclasses import asdict, dataclass

from torch import Generator

from efface.backbone import Backbone
from efface.core import Concept, EffaceError, OnStep
from efface.guidance import guiding
from efface.patch import Patch


@dataclass(frozen=True)
class SLD:
    """Settings of the safety guidance; the defaults are the paper's "medium"."""

    scale: float = 1000.0
    """s_S, from 0: how soon a difference counts whole. Higher steers harder; 0 does nothing."""
    threshold: float = 0.01
    """λ: steer where the prompted prediction exceeds the concept's by less. Higher steers more."""
    warmup: int = 10
    """δ, from 0: first calls of a drawing without steering. Higher keeps its composition."""
    momentum_scale: float = 0.3
    """s_m, from 0 to 1. Higher goes on longer in directions that were steered before."""
    momentum_decay: float = 0.4
    """β_m, from 0 to below 1. Higher remembers longer."""

    def __post_init__(self) -> None:
        if min(self.scale, self.warmup, self.momentum_scale) < 0:
            raise EffaceError("scale, warmup and momentum_scale must not be below 0")
        if self.momentum_scale > 1 or not 0 <= self.momentum_decay < 1:
            raise EffaceError(
                "momentum_scale must be at most 1 and momentum_decay from 0 to below 1: got "
                f"{self.momentum_scale}, {self.momentum_decay}"
            )

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """Encodes the concept; nothing is random."""
        return guiding(model, concept, "sld", {"name": "sld", **asdict(self)}, asdict(self))


PRESETS = {
    "weak": SLD(200.0, 0.0, 15, 0.0, 0.0),
    "medium": SLD(),
    "strong": SLD(2000.0, 0.025, 7, 0.5, 0.7),
    "max": SLD(5000.0, 1.0, 0, 0.5, 0.7),
}
"""The paper's four; their warm-ups are of 50 steps."""
