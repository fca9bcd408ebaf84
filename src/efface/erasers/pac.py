"""P-AC: learn which weights to set to zero, on Concept Ablation's loss.

Yang et al., "Pruning for Robust Concept Erasing in Diffusion Models", arXiv 2405.16534, NeurIPS
2024 workshop. As P-ESD, with the loss of Concept Ablation; what of the paper is verified stands in
`efface.erasers.pesd`.

Deviations from the authors' code: none is public; all but the idea is our reconstruction, as there.
The teacher is the model under its current mask, as Concept Ablation's is the current model.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.core import Concept, OnStep
from efface.erasers.ablation import Ablation
from efface.masks import Pruning, learned
from efface.patch import Patch
from efface.train import Weights, standing_of


@dataclass(frozen=True)
class PAC(Pruning, Ablation):
    """Concept Ablation's settings and the mask's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_mask()

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The mask, as factors of the weights."""
        story: dict[str, Any] = {"name": "pac", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        anchors = self.anchors(model, concept, rng, on_step)

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.loss(anchors, weights, generator)

        edits, trained, pruned = learned(
            self.parameters(anchors.denoiser),
            loss,
            anchors.kept.moved,
            self,
            self.most_moved,
            steps=self.steps,
            rng=rng,
            on_step=on_step,
            standing=standing,
        )
        on_step("training", 1, 1)
        facts = {**trained.facts(anchors.seen.moved, anchors.kept.moved), "pruned": pruned}
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)
