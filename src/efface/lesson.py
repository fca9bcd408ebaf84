"""The step that ESD, RACE and P-ESD share: predict the concept as if guided away from it.

Targets come from the base model alone. Where x_t are the base's too they are drawn once, and each
comes with its target (see `efface.moments`); where they are the edited model's they are drawn anew
every so often, and the base is asked for their targets in one batched call for both prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from efface.backbone import Backbone, Denoiser
from efface.core import Concept, OnStep, Said
from efface.moments import Moments, beside, draw, remembered, said_by, say, spread
from efface.phrases import fitted, held
from efface.tokens import check_spoken

WATCHED = 16
"""Moments at which it is measured how far training moves predictions."""
LOOKED_AT = 4
"""Drawings of kept prompts where they are only measured, in as many steps as give `WATCHED`."""
SPARE = 2
"""Moments drawn for an example, at most."""
SHORTEST = 5
"""Steps that a drawing has at least, if so many are asked for."""
NOTHING = 1e-8
"""What is said below this share of a prediction's square is round-off."""
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Drawing:
    """How x_t are drawn."""

    count: int
    steps: int
    guidance: float
    redraw: int = 0
    """Steps after which the edited model draws them anew; 0: the base draws them once."""


class Batch(NamedTuple):
    """One step's examples."""

    moments: Moments
    said: Said
    """What each is called."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Moments with the prompts they are of; their `named` and `other` are the base's."""

    denoiser: Denoiser
    prompts: Said
    moments: Moments

    def some(self, count: int, rng: Generator) -> Batch:
        """Examples at random."""
        picks = torch.randint(len(self.moments.times), (count,), generator=rng)
        return self._batch(self.moments.at(picks))

    def _batch(self, moments: Moments) -> Batch:
        return Batch(moments, said_by(self.prompts, moments.pair))

    def moved(self, weights: Weights) -> float:
        """How far `weights` move predictions, against what their prompts say in the base model.

        Σ|f(x_t, c) − f*(x_t, c)|² / Σ|f*(x_t, c) − f*(x_t, o)|² at some moments, o what c is guided
        away from: 0 is untouched, 1 as much as the prompt matters. Where nothing is said, as by the
        empty prompt alone, against Σ|f*(x_t, c)|².
        """
        at = torch.linspace(0, len(self.moments.times) - 1, WATCHED).long()
        some, said = self._batch(self.moments.at(at))
        with torch.no_grad():
            now = self.denoiser.predict(some.latents, some.times, said, weights)
        off, says = (now - some.named).square().sum(), (some.named - some.other).square().sum()
        whole = some.named.square().sum()
        return (off / (says if says > NOTHING * whole else whole)).item()


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
        """`kept`: drawings of what is kept, 0 where nothing is learned from them.

        `rng` gives the seeds of drawings, nothing else.
        """
        self.denoiser = model.denoiser()
        self._drawing, self._on_step = drawing, on_step
        self.named, self.other = said_of_concept(model, concept)
        self._pair = drawn_pairs(model, concept, drawing.count, self.named)
        drawn = remembered(
            self.denoiser,
            self.named,
            self.other,
            self._pair,
            steps=drawing.steps,
            guidance=drawing.guidance,
            seed=seed_of(rng),
            on_step=on_step,
        )
        self.erased = self._current = Pool(self.denoiser, self.named, drawn)
        self.kept = kept_pool(model, concept, drawing, kept, seed_of(rng), on_step)

    def through(self, denoiser: Denoiser) -> None:
        """From now on ask this one: the same network, with what a method adds to it."""
        self.denoiser = denoiser
        self.kept = replace(self.kept, denoiser=denoiser)
        self.erased = self._current = replace(self.erased, denoiser=denoiser)

    def batch(self, weights: Weights, step: int, count: int, rng: Generator) -> Batch:
        """Examples of the concept; `named` and `other` of them are the base's predictions."""
        again = self._drawing.redraw
        if again and step % again == 0:
            drawn = draw(
                self.denoiser,
                self.named,
                self.other,
                self._pair,
                steps=self._drawing.steps,
                guidance=self._drawing.guidance,
                rng=rng,
                on_step=self._on_step,
                weights=weights,
            )
            self._current = Pool(self.denoiser, self.named, drawn)
        some, said = self._current.some(count, rng)
        if again:
            some = with_base(self.denoiser, some, said, said_by(self.other, some.pair))
        return Batch(some, said)


def said_of_concept(model: Backbone, concept: Concept) -> tuple[Said, Said]:
    """What is erased and what each becomes."""
    phrases, goals = zip(*fitted(concept), strict=True)
    named, other = say(model, phrases), say(model, goals)
    check_spoken(named[model.streams[0]], phrases)
    return named, other


def drawn_pairs(
    model: Backbone, concept: Concept, count: int, named: Said
) -> Int[Tensor, "drawings"]:
    """Which pair each drawing is of; every phrase to erase has one at least."""
    count = max(count, len(concept.erase))
    return spread(count, len(named[model.streams[0]].states))


def kept_pool(
    model: Backbone, concept: Concept, drawing: Drawing, count: int, seed: int, on_step: OnStep
) -> Pool:
    """Drawings by the base of what is kept, the empty prompt among it.

    `count` 0: nothing is learned from them, and there are as few and short as a measure needs.
    """
    steps = drawing.steps if count else min(drawing.steps, WATCHED // LOOKED_AT)
    words = ["", *held(concept)]
    said = say(model, words)
    empty = said_by(said, torch.zeros(len(words), dtype=torch.long))
    which = spread(max(count or LOOKED_AT, min(2, len(words))), len(words))
    drawn = remembered(
        model.denoiser(),
        said,
        empty,
        which,
        steps=steps,
        guidance=drawing.guidance,
        seed=seed,
        on_step=on_step,
    )
    return Pool(model.denoiser(), said, drawn)


def enough(drawings: int, steps: int, examples: int) -> tuple[int, int]:
    """How many drawings and steps of them, at most those asked for, so many examples need.

    Twice as many moments as examples; many short drawings before few long ones, since moments of
    one drawing are alike.
    """
    moments = SPARE * examples
    count = min(drawings, max(1, -(-moments // SHORTEST)))
    return count, min(steps, max(SHORTEST, -(-moments // count)))


def with_base(denoiser: Denoiser, some: Moments, named: Said, other: Said) -> Moments:
    """The same moments with what the base predicts there, in one batched call."""
    with torch.no_grad():
        ahead, away = denoiser.predict(
            some.latents.repeat(2, 1, 1, 1), some.times.repeat(2), beside(named, other)
        ).chunk(2)
    return some._replace(named=ahead, other=away)


def away(moments: Moments, guidance: float, start: str) -> Float[Tensor, "batch c h w"]:
    """What the edited model should predict under the concept.

    From "nothing": ε₀ − η (ε_c − ε₀). From "concept": ε_c − η (ε_c − ε₀), the same at η + 1.
    """
    ahead, away = moments.named, moments.other
    return (away if start == "nothing" else ahead) - guidance * (ahead - away)


def seed_of(rng: Generator) -> int:
    """A seed for a generator of its own."""
    return int(torch.randint(2**62, (1,), generator=rng))
