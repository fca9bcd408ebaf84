"""Receler: small networks behind every cross-attention learn ESD's target against an adversary.

Huang et al., "Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight
Erasers", arXiv 2311.17717, ECCV 2024. No weight of the model changes: an eraser
a + W↑ GELU(W↓ a) stands behind each cross-attention and learns ε₀ − η (ε_c − ε₀) at x_t of
drawings of the concept. Two terms go with it: what erasers add outside of where the concept is, by
the model's own attention, and prompts with learned rows behind the concept's words, which make the
model say ε_c again; the erasers learn at those.

Deviations from the authors' code: theirs never inserts the learned rows. It assigns to the data of
an indexed copy, so that every pass sees the plain prompt; `as_released` trains so too, in the one
pass that their fifty equal ones come to. Here the rows are in (`efface.soft_prompts`), in the share
`attacked` of a batch, since erasers that only ever meet learned rows need not know the plain
prompt. Their rows' weight decay of 0.1 weakens the adversary (docs/receler.md); ours have none. x_t
are ESD's, drawn by the base unless `redraw` says otherwise; there the mask is of what the base
sees, and with its drawings the concept is in them. Maps are averaged whose side is nearest a
quarter of the latent's (16 of 64 there), the penalty over a batch example by example; a map that is
the same everywhere, 0/0 there, takes all for the concept. Prompts too long for all learned rows get
as many as fit. `keep_weight`, `most_moved` and batches are ours.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from efface.adapters import Adapted, gates
from efface.backbone import Denoiser, Layered
from efface.backbones.attention import crossed, seen
from efface.core import Concept, EffaceError, OnStep, Said
from efface.lesson import Batch, Lesson
from efface.localized import ELSE, Masks, masks, outside, words_of
from efface.moments import beside, said_by
from efface.patch import Patch
from efface.settings import at_least, positive
from efface.soft_prompts import SoftPrompts, behind
from efface.taught import Opposed
from efface.train import Weights, standing_of


class Field(NamedTuple):
    """Where it is learned."""

    denoiser: Adapted
    lesson: Lesson
    words: Bool[Tensor, "phrases tokens"]
    adversary: SoftPrompts | None


@dataclass(frozen=True)
class Receler(Opposed):
    """Settings of the erasers, of ESD's step, and of what goes with it."""

    rate: float = 1e-3
    """Adam's learning rate of the erasers, above 0. Higher needs fewer steps and spoils more."""
    rank: int = 128
    """Width of an eraser's middle, from 1. Higher can change more and is a larger patch."""
    prompts: int = 16
    """Learned rows behind a prompt, from 1. More are a stronger adversary."""
    attack_steps: int = 3
    """Steps of the adversary in an update, from 0 (none). More are robuster and take longer."""
    attack_rate: float = 0.1
    """Adam's learning rate of the learned rows, above 0."""
    attack_decay: float = 0.0
    """Their weight decay, from 0. Higher draws them to 0; the released code has 0.1."""
    attacked: float = 0.5
    """Share of a batch, above 0 to 1, that is said with learned rows; 1 is the paper's."""
    as_released: bool = False
    """Train as the released code does, where the learned rows are never in the prompt."""
    local_weight: float = 0.1
    """Weight, from 0, of what erasers add outside of the concept. Higher holds the rest."""
    threshold: float = 0.1
    """τ, 0 to 1: how far from least to most attention the concept begins. Higher is a tighter mask
    and a harder penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank", "prompts")
        at_least(self, 0, "attack_steps", "attack_decay", "local_weight")
        positive(self, "attack_rate")
        if not 0 < self.attacked <= 1 or not 0 <= self.threshold <= 1:
            raise EffaceError(
                "attacked must be above 0 and at most 1, threshold from 0 to 1: got "
                f"{self.attacked} and {self.threshold}"
            )

    def fit(self, model: Layered, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The trained erasers, a gate each."""
        story: dict[str, Any] = {"name": "receler", **asdict(self)}
        denoiser = Adapted(model.denoiser(), crossed(model.denoiser()))
        standing = standing_of(model, concept, story, rng)
        lesson = self.lesson(model, concept, rng, on_step)
        lesson.through(denoiser)
        start = denoiser.begun(self.rank, rng)
        field = self.field(model, denoiser, lesson, rng)

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.loss(field, weights, step, generator)

        adversary = field.adversary.state if field.adversary else {}
        trained = self.learn(
            start,
            loss,
            lesson.kept,
            rng,
            on_step,
            standing,
            whole=self.whole,
            beside=adversary,
        )
        on_step("training", 1, 1)
        facts = trained.facts(lesson.erased.moved, lesson.kept.moved)
        erasers = gates(model, trained.weights)
        return Patch(concept, story, model.fingerprint, gates=erasers, facts=facts)

    def field(self, model: Layered, denoiser: Adapted, lesson: Lesson, rng: Generator) -> Field:
        """What is learned from, and against whom."""
        named = next(iter(lesson.named.values()))
        words = words_of(named, model.encode([ELSE], model.streams[0]))
        adversary = None
        if self.attack_steps and not self.as_released:
            adversary = SoftPrompts(
                len(named.states),
                self.prompts,
                named.states.shape[2],
                rate=self.attack_rate,
                decay=self.attack_decay,
                rng=rng,
            )
        return Field(denoiser, lesson, words, adversary)

    def loss(self, field: Field, weights: Weights, step: int, rng: Generator) -> Tensor:
        """ESD's target, what erasers add where they should not, and kept prompts as before.

        The last step of the adversary and the update share a pass, as in the authors' code.
        """
        denoiser, lesson, words, adversary = field
        batch = moments, said = lesson.batch(weights, step, self.batch, rng)
        inside = self.inside(denoiser, batch, words) if self.local_weight else {}
        met = math.ceil(self.attacked * self.batch)
        if adversary is not None:
            said = self.attack(denoiser, batch, met, adversary, weights)
        keep = lesson.kept.some(self.batch if self.keep_weight else 0, rng)
        out, added = denoiser.run(
            torch.cat([moments.latents, keep.moments.latents]),
            torch.cat([moments.times, keep.moments.times]),
            beside(said, keep.said),
            weights,
        )
        ours, kept = out.split([self.batch, len(keep.moments.times)])
        if adversary is not None:
            missed = mse_loss(ours[:met], moments.named[:met])
            adversary.step(missed, moments.pair[:met])
        loss = mse_loss(ours, self.goal(moments))
        if self.local_weight:
            here = {site: rows[: self.batch] for site, rows in added.items()}
            loss = loss + self.local_weight * outside(here, inside)
        if self.keep_weight:
            loss = loss + self.keep_weight * mse_loss(kept, keep.moments.named)
        return loss

    def inside(
        self, denoiser: Denoiser, batch: Batch, words: Bool[Tensor, "phrases tokens"]
    ) -> Masks:
        """Where the concept is in each example, as the base sees it."""
        moments, said = batch
        maps = seen(denoiser, *moments[:2], said, words[moments.pair])
        return masks(maps, denoiser.shape[1:], self.threshold)

    def attack(
        self,
        denoiser: Denoiser,
        batch: Batch,
        met: int,
        adversary: SoftPrompts,
        weights: Weights,
    ) -> Said:
        """The prompts, the first `met` with rows learned in all the adversary's steps but one."""
        first, rest = torch.arange(self.batch).split([met, self.batch - met])
        moments, phrase = batch.moments.at(first), batch.moments.pair[first]
        still = {name: w.detach() for name, w in weights.items()}
        said = said_by(batch.said, first)
        for _ in range(self.attack_steps - 1):
            facing = behind(said, adversary.rows(phrase))
            out = denoiser.predict(moments.latents, moments.times, facing, still)
            adversary.step(mse_loss(out, moments.named), phrase)
        return beside(behind(said, adversary.rows(phrase)), said_by(batch.said, rest))


PAPER = Receler(
    steps=500,
    rate=3e-4,
    batch=1,
    drawings=1,
    drawing_steps=50,
    redraw=10,
    attack_steps=50,
    attack_decay=0.1,
    attacked=1.0,
    keep_weight=0.0,
)
PRESETS = {"paper": PAPER, "released": replace(PAPER, as_released=True)}
"""paper: the released settings with the learned rows in the prompt; released: without, as it runs.
A trajectory of the current model serves `redraw` steps and not one."""
