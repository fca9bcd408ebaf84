"""P-AC: learn which weights to set to zero, on Concept Ablation's loss.

Yang et al., "Pruning for Robust Concept Erasing in Diffusion Models", arXiv 2405.16534, NeurIPS
2024 workshop. As P-ESD, with the loss of Concept Ablation; what of the paper is verified stands in
`efface.erasers.pesd`.

Deviations from the authors' code: none is public; all but the idea is our reconstruction, as there.
The teacher is the model under its current mask, as Concept Ablation's is the current model.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Generator

from efface.backbone import Backbone
from efface.core import Concept, OnStep
from efface.erasers.ablation import Ablation
from efface.layers import chosen
from efface.masks import check_mask, learned
from efface.patch import Patch
from efface.train import standing_of


@dataclass(frozen=True)
class PAC(Ablation):
    """Concept Ablation's settings and the mask's."""

    rate: float = 0.2
    """Adam's learning rate of the logits, above 0. Higher prunes sooner."""
    sparsity: float = 0.1
    """Weight, from 0, of the share pruned. Higher prunes less."""
    ratio: float = 1.0
    """At most this share is pruned, 0 to 1, the weights of the lowest logits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mask(self.sparsity, self.ratio)

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The mask, as factors of the weights."""
        story: dict[str, Any] = {"name": "pac", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        anchors = self.anchors(model, concept, rng, on_step)
        denoiser = anchors.denoiser
        base = {n: denoiser.weight(n) for n in chosen(denoiser.names(), self.layers)}
        edits, trained, pruned = learned(
            base,
            lambda weights, step, generator: self.loss(anchors, weights, generator),
            anchors.kept.moved,
            sparsity=self.sparsity,
            ratio=self.ratio,
            most_moved=self.most_moved,
            steps=self.steps,
            rate=self.rate,
            rng=rng,
            on_step=on_step,
            standing=standing,
        )
        on_step("training", 1, 1)
        facts = {**trained.facts(anchors.seen.moved, anchors.kept.moved), "pruned": pruned}
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)
