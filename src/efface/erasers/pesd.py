"""P-ESD: learn which weights to set to zero, on ESD's loss.

Yang et al., "Pruning for Robust Concept Erasing in Diffusion Models", arXiv 2405.16534, NeurIPS
2024 workshop. Verified, from the abstract and accounts by others: a differentiable mask of single
parameters is learned on the loss of an existing method, and what it selects is exactly zero, so
that no prompt balances it out.

Deviations from the authors' code: none is public and the paper's body was not to be had, so the
rest is our reconstruction: a logit u for each weight, which counts by a hard concrete gate while
it is learned and is kept or zeroed whole in the end (`efface.masks`); the loss is ESD's plus
`sparsity` × mean sigmoid(−u); weights themselves are not trained; which layers, which rate, and
`ratio` are ours.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.core import Concept, OnStep
from efface.erasers.esd import ESD
from efface.masks import Pruning, learned
from efface.patch import Patch
from efface.train import Weights, standing_of


@dataclass(frozen=True)
class PESD(Pruning, ESD):
    """ESD's settings and the mask's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_mask()

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The mask, as factors of the weights."""
        story: dict[str, Any] = {"name": "pesd", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        lesson = self.lesson(model, concept, rng, on_step)

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.loss(lesson, weights, step, generator)

        edits, trained, pruned = learned(
            self.parameters(lesson.denoiser),
            loss,
            lesson.kept.moved,
            self,
            self.most_moved,
            steps=self.steps,
            rng=rng,
            on_step=on_step,
            standing=standing,
            whole=self.whole,
        )
        on_step("training", 1, 1)
        facts = {**trained.facts(lesson.erased.moved, lesson.kept.moved), "pruned": pruned}
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)
