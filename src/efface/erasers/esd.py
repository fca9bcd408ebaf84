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
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from efface.backbone import Backbone, Denoiser
from efface.core import Concept, EffaceError, OnStep
from efface.layers import Layers, chosen
from efface.lesson import Batch, Drawing, Lesson, away
from efface.moments import beside
from efface.patch import Patch, dense
from efface.train import Standing, Trained, Weights, standing_of, train, watching


@dataclass(frozen=True)
class ESD:
    """Settings of one fine-tuning."""

    layers: Layers = "x"
    """What is trained: x (cross-attention), kv (its keys and values), u (all else), self, full."""
    guidance: float = 1.0
    """η, from 0: how far past nothing the concept is pushed. Higher erases harder, spoils more."""
    start: Literal["nothing", "concept"] = "nothing"
    """Where the push starts: nothing (the paper, η = 1) or concept (today's code, 2 is that)."""
    steps: int = 60
    """Updates, from 0. More erase harder and move neighbours more."""
    rate: float = 2e-4
    """Adam's learning rate, above 0. Higher needs fewer steps and moves neighbours more."""
    batch: int = 4
    """Moments of the concept in an update, from 1. Higher is steadier and slower."""
    drawings: int = 8
    """Drawings of the concept, from 1; one a phrase at least. More give more to learn from."""
    drawing_steps: int = 20
    """Steps of a drawing, from 1. More give more moments."""
    drawing_guidance: float = 3.0
    """Guidance of the drawings. Higher makes what is learned from more typical of the concept."""
    redraw: int = 0
    """Updates after which the edited model draws anew; 0: only the base draws, once."""
    keep_weight: float = 1.0
    """Weight, from 0, of predicting kept prompts as before; 0 is the paper's."""
    keep_drawings: int = 16
    """Drawings of kept prompts, from 1. More hold more of them."""
    most_moved: float | None = None
    """Stop before kept prompts are moved by more than this share of what they say; none: never."""

    def __post_init__(self) -> None:
        least = (self.batch, self.drawings, self.drawing_steps, self.keep_drawings)
        if min(least) < 1 or self.rate <= 0:
            raise EffaceError(
                "batch, drawings, drawing_steps and keep_drawings must be at least 1, rate above "
                f"0: got {', '.join(map(str, (*least, self.rate)))}"
            )
        if min(self.steps, self.redraw, self.keep_weight, self.guidance) < 0:
            raise EffaceError("steps, redraw, keep_weight and guidance must not be below 0")

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The trained weights less the model's own."""
        story: dict[str, Any] = {"name": "esd", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        lesson = self.lesson(model, concept, rng, on_step)
        base = self.parameters(lesson.denoiser)
        trained = self.erase(lesson, base, self.steps, rng, on_step, standing)
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
        steps: int,
        rng: Generator,
        on_step: OnStep,
        standing: Standing,
        *,
        last: bool = True,
    ) -> Trained:
        """Descend Eq. 7 from `start`."""
        return train(
            start,
            lambda weights, step, generator: self.loss(lesson, weights, step, generator),
            steps=steps,
            rate=self.rate,
            rng=rng,
            on_step=on_step,
            watch=watching(lesson.kept.moved, self.most_moved),
            standing=standing,
            whole=max(1, self.redraw),
            last=last,
        )

    def lesson(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Lesson:
        """What is learned from."""
        drawing = Drawing(self.drawings, self.drawing_steps, self.drawing_guidance, self.redraw)
        return Lesson(model, concept, drawing, self.keep_drawings, rng, on_step)

    def loss(self, lesson: Lesson, weights: Weights, step: int, rng: Generator) -> Tensor:
        """Eq. 7, and kept prompts as before; one call for both."""
        batch = lesson.batch(weights, step, self.batch, rng)
        return self.regression(lesson, weights, batch, rng)

    def regression(self, lesson: Lesson, weights: Weights, batch: Batch, rng: Generator) -> Tensor:
        """The loss at examples of the concept."""
        goal = away(batch.moments, self.guidance, self.start)
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
