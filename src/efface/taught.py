"""What erasers that learn from drawings have in common: settings, their bounds, the loop's call."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.core import Concept, OnStep
from efface.lesson import Drawing, Lesson, Pool, away, enough
from efface.moments import Moments
from efface.settings import at_least, positive
from efface.train import Loss, Standing, Trained, Weights, train, watching


@dataclass(frozen=True)
class Taught:
    """Settings of a training; a method gives its own defaults."""

    steps: int = 60
    """Updates, from 0. More erase harder and move neighbours more."""
    rate: float = 2e-4
    """Adam's learning rate, above 0. Higher needs fewer steps and moves neighbours more."""
    batch: int = 4
    """Moments of the concept in an update, from 1. Higher is steadier and slower."""
    drawings: int = 8
    """Drawings of the concept, from 1; one a phrase at least, fewer where updates are few."""
    drawing_steps: int = 20
    """Steps of a drawing at most, from 1. More give more moments and better pictures."""
    drawing_guidance: float = 3.0
    """Guidance of the drawings. Higher makes what is learned from more typical of the concept."""
    keep_weight: float = 1.0
    """Weight, from 0, of predicting kept prompts as before; 0 is the papers'."""
    keep_drawings: int = 16
    """Drawings of kept prompts, from 1. More hold more of them; without `keep_weight` not made."""
    most_moved: float | None = None
    """Stop before kept prompts are moved by more than this share of what they say; none: never."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch", "drawings", "drawing_steps", "keep_drawings")
        at_least(self, 0, "steps", "keep_weight")
        positive(self, "rate")

    @property
    def kept_drawings(self) -> int:
        """Drawings of kept prompts to learn from."""
        return self.keep_drawings if self.keep_weight else 0

    def learn(
        self,
        start: Weights,
        loss: Loss,
        kept: Pool,
        rng: Generator,
        on_step: OnStep,
        standing: Standing,
        *,
        steps: int | None = None,
        **how: Any,
    ) -> Trained:
        """Descend `loss` for these settings' steps, or so many; `how` goes to the loop."""
        return train(
            start,
            loss,
            steps=self.steps if steps is None else steps,
            rate=self.rate,
            rng=rng,
            on_step=on_step,
            watch=watching(kept.moved, self.most_moved),
            standing=standing,
            **how,
        )


@dataclass(frozen=True)
class Opposed(Taught):
    """And of what learns to predict the concept as if guided away from it (ESD, Eq. 7)."""

    guidance: float = 1.0
    """η, from 0: how far past nothing the concept is pushed. Higher erases harder, spoils more."""
    start: Literal["nothing", "concept"] = "nothing"
    """Where the push starts: nothing (the paper, η = 1) or concept (today's code, 2 is that)."""
    redraw: int = 0
    """Updates after which the edited model draws anew; 0: only the base draws, once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "guidance", "redraw")

    def lesson(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Lesson:
        """What is learned from."""
        count, steps = self.drawings, self.drawing_steps
        if not self.redraw:
            count, steps = enough(count, steps, self.batch * self.updates)
        drawing = Drawing(count, steps, self.drawing_guidance, self.redraw)
        return Lesson(model, concept, drawing, self.kept_drawings, rng, on_step)

    def goal(self, moments: Moments) -> Float[Tensor, "batch c h w"]:
        """What is to be predicted under the concept."""
        return away(moments, self.guidance, self.start)

    @property
    def updates(self) -> int:
        """Those that drawings by the base serve."""
        return self.steps

    @property
    def whole(self) -> int:
        """Updates between which a killed run is picked up: drawings are not kept."""
        return max(1, self.redraw)
