"""ESD: fine-tune the denoiser to predict, where the concept is named, the opposite of it.

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345, ICCV 2023. The edited
model learns ε_θ(x_t, c, t) ← ε_θ*(x_t, t) − η [ε_θ*(x_t, c, t) − ε_θ*(x_t, t)] (Eq. 7) at x_t of
guided drawings of the concept: ESD-x trains the cross-attention, ESD-u all else, full everything.

Deviations from the authors' code: drawings are batched and every step of them is used, with its
targets, which the drawing has already computed (`efface.moments`); times lie anywhere in a step and
x_t is at just that time, where the first code noised for one time and told the network another.
The output is regressed as the network gives it (ε, v or a flow): the combination is the same, the
weights over time are not. Weights are trained in float32; their current code trains bfloat16 ones,
where a step of 5e-5 mostly rounds away. Where a concept is sent toward something, that stands for
ε_θ*(x_t, t). `keep_weight` and `most_moved` are ours; presets give the released codes' settings,
except that a trajectory of the current model serves `redraw` steps and not one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from efface.core import Backbone, Concept, EffaceError, OnStep
from efface.layers import Layers, chosen
from efface.lesson import Batch, Drawing, Lesson, away
from efface.moments import beside
from efface.patch import Patch, dense
from efface.train import Trained, Watch, standing_of, train

EVERY = 20
"""Steps between two looks at what is kept."""


@dataclass(frozen=True)
class ESD:
    """Settings of one fine-tuning."""

    layers: Layers = "x"
    """What is trained: x (cross-attention), kv (its keys and values), u (all else), self, full."""
    guidance: float = 1.0
    """η, from 0: how far past nothing the concept is pushed. Higher erases harder, spoils more."""
    start: Literal["nothing", "concept"] = "nothing"
    """Where the push starts: nothing (the paper, η = 1) or concept (today's code, 2 is that)."""
    steps: int = 100
    """Updates, from 0. More erase harder and move neighbours more."""
    rate: float = 1e-4
    """Adam's learning rate, above 0. Higher needs fewer steps and moves neighbours more."""
    batch: int = 4
    """Moments of the concept in an update, from 1. Higher is steadier and slower."""
    drawings: int = 16
    """Drawings of the concept, from 1; each gives as many moments as it has steps."""
    drawing_steps: int = 20
    """Steps of a drawing, from 1. More give more moments."""
    drawing_guidance: float = 3.0
    """Guidance of the drawings. Higher makes what is learned from more typical of the concept."""
    redraw: int = 0
    """Updates after which the edited model draws anew; 0: only the base draws, once."""
    keep_weight: float = 1.0
    """Weight, from 0, of predicting kept prompts as before; 0 is the paper's."""
    keep_drawings: int = 32
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
        return fine_tuned("esd", self, model, concept, rng, on_step)

    def lesson(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Lesson:
        """What is learned from."""
        drawing = Drawing(self.drawings, self.drawing_steps, self.drawing_guidance, self.redraw)
        return Lesson(model, concept, drawing, self.keep_drawings, rng, on_step)

    def loss(
        self, lesson: Lesson, weights: Mapping[str, Tensor], step: int, rng: Generator
    ) -> Tensor:
        """Eq. 7, and kept prompts as before; one call for both."""
        batch = lesson.batch(weights, step, self.batch, rng)
        return self.regression(lesson, weights, batch, rng)

    def regression(
        self, lesson: Lesson, weights: Mapping[str, Tensor], batch: Batch, rng: Generator
    ) -> Tensor:
        """The loss at examples of the concept."""
        goal = away(batch.moments, self.guidance, self.start)
        if not self.keep_weight:
            out = lesson.denoiser.predict(*batch.moments[:2], batch.said, weights)
            return mse_loss(out, goal)
        keep = lesson.keeping(self.batch, rng)
        out, kept = lesson.denoiser.predict(
            torch.cat([batch.moments.latents, keep.moments.latents]),
            torch.cat([batch.moments.times, keep.moments.times]),
            beside(batch.said, keep.said),
            weights,
        ).split([self.batch, self.batch])
        return mse_loss(out, goal) + self.keep_weight * mse_loss(kept, keep.moments.named)


def fine_tuned(
    name: str, eraser: ESD, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep
) -> Patch:
    """Train an eraser of this kind from the base's weights."""
    story: dict[str, Any] = {"name": name, **asdict(eraser)}
    standing = standing_of(model, concept, story, rng)
    lesson = eraser.lesson(model, concept, rng, on_step)
    denoiser = lesson.denoiser
    base = {n: denoiser.weight(n) for n in chosen(denoiser.names(), eraser.layers)}
    trained = train(
        base,
        lambda weights, step, generator: eraser.loss(lesson, weights, step, generator),
        steps=eraser.steps,
        rate=eraser.rate,
        rng=rng,
        on_step=on_step,
        watch=watch(lesson, eraser.most_moved),
        standing=standing,
        whole=max(1, eraser.redraw),
    )
    on_step("training", 1, 1)
    edits = dense(base, trained.weights)
    return Patch(concept, story, model.fingerprint, edits=edits, facts=measured(lesson, trained))


def watch(lesson: Lesson, limit: float | None) -> Watch | None:
    """Stops before kept prompts move by more than the limit."""
    if limit is None:
        return None
    return Watch(lambda weights: lesson.moved(weights, kept=True), limit, EVERY)


def measured(lesson: Lesson, trained: Trained) -> dict[str, Any]:
    """What a patch's header says of a training."""
    return {
        "steps": trained.steps,
        "stopped": trained.stopped,
        "loss": [trained.losses[i] for i in (0, -1)] if trained.losses else None,
        "moved": {
            "erased": lesson.moved(trained.weights, kept=False),
            "kept": lesson.moved(trained.weights, kept=True),
        },
        "trained": sum(w.numel() for w in trained.weights.values()),
    }


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
