"""ESD: fine-tune the denoiser to predict, where the concept is named, the opposite of it.

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345, ICCV 2023. The edited
model learns ε_θ(x_t, c, t) ← ε_θ*(x_t, t) − η [ε_θ*(x_t, c, t) − ε_θ*(x_t, t)] (Eq. 7) at x_t of
guided drawings of the concept: ESD-x trains the cross-attention, ESD-u all else, full everything.

Deviations from the authors' code: drawings are batched and every step of them is used, with its
targets, which the drawing has already computed (`efface.moments`); times lie anywhere in a step and
x_t is at just that time, where the first code noised for one time and told the network another.
The output is regressed as the network gives it (ε, v or a flow): the combination is the same, the
weights over time are not. Weights are trained in float32; their current code trains bfloat16 ones,
where a step of 5e-5 mostly rounds away. `u` and `full` are the first code's; today's leaves norms
out of both, and takes the embedding of time and the last convolution into u. Where a concept is
sent toward something, that stands for ε_θ*(x_t, t). `keep_weight` and `most_moved` are ours;
presets give the released codes' settings, except that a trajectory of the current model serves
`redraw` steps and not one.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from efface.backbone import Backbone, Denoiser
from efface.core import Concept, OnStep
from efface.layers import Layers, chosen
from efface.lesson import Batch, Lesson
from efface.moments import beside
from efface.patch import Patch, dense
from efface.taught import Opposed
from efface.train import Standing, Trained, Weights, standing_of


@dataclass(frozen=True)
class ESD(Opposed):
    """Settings of one fine-tuning."""

    layers: Layers = "x"
    """What is trained: x (cross-attention), kv (its keys and values), u (all else), self, full."""

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The trained weights less the model's own."""
        story: dict[str, Any] = {"name": "esd", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        lesson = self.lesson(model, concept, rng, on_step)
        base = self.parameters(lesson.denoiser)
        trained = self.erase(lesson, base, rng, on_step, standing)
        on_step("training", 1, 1)
        edits = dense(base, trained.weights)
        facts = trained.facts(lesson.erased.moved, lesson.kept.moved)
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)

    def parameters(self, denoiser: Denoiser) -> dict[str, Tensor]:
        """What is trained, as it is in the base."""
        return {n: denoiser.weight(n) for n in chosen(denoiser.names(), self.layers)}

    def erase(
        self,
        lesson: Lesson,
        start: Weights,
        rng: Generator,
        on_step: OnStep,
        standing: Standing,
        **how: Any,
    ) -> Trained:
        """Descend Eq. 7 from `start`."""

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.loss(lesson, weights, step, generator)

        return self.learn(start, loss, lesson.kept, rng, on_step, standing, whole=self.whole, **how)

    def loss(self, lesson: Lesson, weights: Weights, step: int, rng: Generator) -> Tensor:
        """Eq. 7, and kept prompts as before; one call for both."""
        batch = lesson.batch(weights, step, self.batch, rng)
        return self.regression(lesson, weights, batch, rng)

    def regression(self, lesson: Lesson, weights: Weights, batch: Batch, rng: Generator) -> Tensor:
        """The loss at examples of the concept."""
        goal = self.goal(batch.moments)
        if not self.keep_weight:
            out = lesson.denoiser.predict(*batch.moments[:2], batch.said, weights)
            return mse_loss(out, goal)
        keep = lesson.kept.some(self.batch, rng)
        out, kept = lesson.denoiser.predict(
            torch.cat([batch.moments.latents, keep.moments.latents]),
            torch.cat([batch.moments.times, keep.moments.times]),
            beside(batch.said, keep.said),
            weights,
        ).split([self.batch, self.batch])
        return mse_loss(out, goal) + self.keep_weight * mse_loss(kept, keep.moments.named)


PRESETS = {
    "paper": ESD(
        steps=1000,
        rate=1e-5,
        batch=1,
        drawings=1,
        drawing_steps=50,
        redraw=10,
        keep_weight=0.0,
    ),
    "current-code": ESD(
        start="concept",
        guidance=2.0,
        steps=200,
        rate=5e-5,
        batch=1,
        drawing_steps=50,
        keep_weight=0.0,
    ),
}
"""paper: the first released code, x_t of the edited model; current-code: today's, x_t of the base.
Layers as asked for: x for styles, u for objects, in the paper."""
