"""The step that ESD, RACE and P-ESD share: predict the concept as if guided away from it.

Targets come from the base model alone. Where x_t are the base's too they are drawn once, and each
comes with its target (see `efface.moments`); where they are the edited model's they are drawn anew
every so often, and the base is asked for their targets in one batched call for both prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.core import Backbone, Concept, OnStep, Said
from efface.moments import Moments, beside, draw, remembered, said_by, say, spread
from efface.phrases import fitted, held
from efface.tokens import check_spoken

WATCHED = 32
"""Moments at which it is measured how far training moves predictions."""


@dataclass(frozen=True)
class Drawing:
    """How x_t are drawn."""

    count: int
    steps: int
    guidance: float
    redraw: int
    """Steps after which the edited model draws them anew; 0: the base draws them once."""


class Batch(NamedTuple):
    """One step's examples."""

    moments: Moments
    said: Said
    """What each was drawn as."""


class Lesson:
    """A concept's examples, and those of what is kept, on one model."""

    def __init__(
        self,
        model: Backbone,
        concept: Concept,
        drawing: Drawing,
        kept: int,
        rng: Generator,
        on_step: OnStep,
    ) -> None:
        """`kept`: drawings of what is kept; `rng` gives the seeds of drawings, nothing else."""
        self.model, self.denoiser = model, model.denoiser()
        self._drawing, self._on_step = drawing, on_step
        phrases, goals = zip(*fitted(concept), strict=True)
        self.named, self.other = say(model, phrases), say(model, goals)
        check_spoken(self.named[model.streams[0]], phrases)
        self.pair = spread(drawing.count, len(phrases))
        self._seed = _seed(rng)
        self.erased = self._drawn(self.named, self.other, self.pair, self._seed)
        self._current = self.erased
        words = ["", *held(concept)]
        self.words = say(model, words)
        empty = said_by(self.words, torch.zeros(len(words), dtype=torch.long))
        which = spread(kept, len(words)) * max(1, len(words) // max(1, kept)) % len(words)
        self.kept = self._drawn(self.words, empty, which, _seed(rng))

    def _drawn(self, named: Said, other: Said, pair: Tensor, seed: int) -> Moments:
        drawing = self._drawing
        return remembered(
            self.denoiser,
            named,
            other,
            pair,
            steps=drawing.steps,
            guidance=drawing.guidance,
            seed=seed,
            on_step=self._on_step,
        )

    def batch(self, weights: Mapping[str, Tensor], step: int, count: int, rng: Generator) -> Batch:
        """Examples of the concept; `named` and `other` of them are the base's predictions."""
        again = self._drawing.redraw
        if again and step % again == 0:
            self._current = draw(
                self.denoiser,
                self.named,
                self.other,
                self.pair,
                steps=self._drawing.steps,
                guidance=self._drawing.guidance,
                rng=rng,
                on_step=self._on_step,
                weights=weights,
            )
        some = self._current.at(torch.randint(len(self._current.times), (count,), generator=rng))
        said = said_by(self.named, some.pair)
        if again:
            both = beside(said, said_by(self.other, some.pair))
            with torch.no_grad():
                ahead, away = self.denoiser.predict(
                    some.latents.repeat(2, 1, 1, 1), some.times.repeat(2), both
                ).chunk(2)
            some = some._replace(named=ahead, other=away)
        return Batch(some, said)

    def keeping(self, count: int, rng: Generator) -> Batch:
        """Examples of what is kept, drawn by the base."""
        some = self.kept.at(torch.randint(len(self.kept.times), (count,), generator=rng))
        return Batch(some, said_by(self.words, some.pair))

    def moved(self, weights: Mapping[str, Tensor], *, kept: bool) -> float:
        """How far `weights` move predictions, against what their prompts say in the base model.

        Σ|f(x_t, c) − f*(x_t, c)|² / Σ|f*(x_t, c) − f*(x_t, "")|² at some moments: 0 is untouched, 1
        as much as the prompt matters.
        """
        pool, words = (self.kept, self.words) if kept else (self.erased, self.named)
        some = pool.at(torch.linspace(0, len(pool.times) - 1, WATCHED).long())
        with torch.no_grad():
            now = self.denoiser.predict(
                some.latents, some.times, said_by(words, some.pair), weights
            )
        off, says = (now - some.named).square().sum(), (some.named - some.other).square().sum()
        return (off / says).item()


def away(moments: Moments, guidance: float, start: str) -> Float[Tensor, "batch c h w"]:
    """What the edited model should predict under the concept.

    From "nothing": ε₀ − η (ε_c − ε₀). From "concept": ε_c − η (ε_c − ε₀), the same at η + 1.
    """
    ahead, away = moments.named, moments.other
    return (away if start == "nothing" else ahead) - guidance * (ahead - away)


def _seed(rng: Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=rng))
