"""RACE: erase the concept also where an adversary has nudged its prompt, one timestep at a time.

Kim, Min and Yang, "R.A.C.E.: Robust Adversarial Concept Erasure for Secure Text-to-Image Diffusion
Model", arXiv 2405.16341, ECCV 2024. A model erased by ESD is trained on: each step looks, by
projected gradient descent at a single timestep, for the embedding e' within an ε-box around the
prompt's that makes the edited model say what the concept would have, then takes ESD's step at e'.

Deviations from the authors' code: the erased model that it starts from is trained here
(`erase_steps`), not loaded. Their adversary aims at the noise z_T that the drawing began with
(`target` "noise"), which is the truth near the first step alone; "prediction", our default, aims at
the base's own prediction under the concept. Noise is compared as noise, whatever the network gives.
The number of attack steps is a setting; theirs is parsed and ignored, ten are made. x_t are ESD's
here, drawn by the base unless `redraw` says otherwise; theirs always come from the current model.
Only the rows of the first text stream are attacked.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import l1_loss, mse_loss

from efface.backbone import Backbone, Denoiser
from efface.core import Concept, Encoded, OnStep, Said
from efface.erasers.esd import ESD
from efface.lesson import Batch, Lesson
from efface.patch import Patch, dense
from efface.settings import at_least, positive
from efface.train import Weights, standing_of


@dataclass(frozen=True)
class RACE(ESD):
    """ESD's settings, for both halves, and the adversary's."""

    steps: int = 40
    """Updates against the adversary, from 0; each costs twice `attack_steps` more than ESD's."""
    erase_steps: int = 60
    """Updates of plain ESD before, from 0."""
    reach: float = 0.1
    """ε, from 0: half the side of the box around the embedding. Higher is robust to more."""
    attack_steps: int = 5
    """Steps of the adversary, from 0. More find worse embeddings and take longer."""
    attack_pace: float = 0.25
    """Length of its step as a share of `reach`, above 0."""
    target: Literal["prediction", "noise"] = "prediction"
    """What the adversary wants: the base's prediction (ours) or the first noise (the code's)."""
    distance: Literal["l2", "l1"] = "l2"
    """How it measures that it comes nearer."""
    lasso: float = 0.0
    """Weight, from 0, of staying near the ESD weights in L1; the paper's regulariser uses 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "erase_steps", "attack_steps", "reach", "lasso")
        positive(self, "attack_pace")

    @property
    def updates(self) -> int:
        """Of both halves."""
        return self.erase_steps + self.steps

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """ESD, then training against the adversary."""
        story: dict[str, Any] = {"name": "race", **asdict(self)}
        before = standing_of(model, concept, {**story, "half": 1}, rng)
        standing = standing_of(model, concept, story, rng)
        lesson = self.lesson(model, concept, rng, on_step)
        base = self.parameters(lesson.denoiser)
        start = self.erase(
            lesson, base, rng, on_step, before, steps=self.erase_steps, last=False
        ).weights

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.robust(lesson, start, weights, step, generator)

        trained = self.learn(start, loss, lesson.kept, rng, on_step, standing, whole=self.whole)
        before.done()
        on_step("training", 1, 1)
        edits = dense(base, trained.weights)
        facts = trained.facts(lesson.erased.moved, lesson.kept.moved)
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)

    def robust(
        self, lesson: Lesson, start: Weights, weights: Weights, step: int, rng: Generator
    ) -> Tensor:
        """ESD's loss at the adversary's embeddings; `start` is what ESD came to."""
        batch = lesson.batch(weights, step, self.batch, rng)
        rows = self.attack(lesson.denoiser, batch, weights, rng)
        worst = batch._replace(said=put(batch.said, rows))
        loss = self.regression(lesson, weights, worst, rng)
        if self.lasso:
            loss = loss + self.lasso * sum(
                (w - start[name]).abs().mean() for name, w in weights.items()
            )
        return loss

    def attack(
        self, denoiser: Denoiser, batch: Batch, weights: Weights, rng: Generator
    ) -> Float[Tensor, "batch tokens width"]:
        """Rows in the box, and no larger or smaller than any of the prompt's, that say most."""
        rows = first(batch.said).states
        low, high = rows.amin((1, 2), keepdim=True), rows.amax((1, 2), keepdim=True)
        still = {name: w.detach() for name, w in weights.items()}

        def inside(moved: Tensor) -> Tensor:
            boxed = torch.maximum(torch.minimum(moved, rows + self.reach), rows - self.reach)
            return torch.maximum(torch.minimum(boxed, high), low)

        found = inside(rows + self.reach * (2 * torch.rand(rows.shape, generator=rng) - 1))
        for _ in range(self.attack_steps):
            found.requires_grad_()
            off = self.missed(denoiser, batch, found, still)
            [grad] = torch.autograd.grad(off, found)
            found = inside(found.detach() - self.attack_pace * self.reach * grad.sign())
        return found

    def missed(
        self,
        denoiser: Denoiser,
        batch: Batch,
        rows: Float[Tensor, "batch tokens width"],
        weights: Weights,
    ) -> Float[Tensor, ""]:
        """How far the edited model is, at these rows, from what the adversary wants."""
        moments = batch.moments
        at = (moments.latents, moments.times)
        out = denoiser.predict(*at, put(batch.said, rows), weights)
        distance = mse_loss if self.distance == "l2" else l1_loss
        if self.target == "prediction":
            return distance(out, moments.named)
        return distance(denoiser.noise.split(*at, out)[1], moments.starts[moments.drawing])


def first(said: Said) -> Encoded:
    """The stream that is attacked."""
    return next(iter(said.values()))


def put(said: Said, rows: Float[Tensor, "batch tokens width"]) -> Said:
    """The same prompts with other rows in that stream."""
    name = next(iter(said))
    return {**said, name: said[name]._replace(states=rows)}


PRESETS = {
    "released": RACE(
        steps=1000,
        erase_steps=1000,
        rate=1e-5,
        batch=1,
        drawings=1,
        drawing_steps=50,
        redraw=10,
        keep_weight=0.0,
        attack_steps=10,
        target="noise",
    ),
}
"""The released code's numbers, its ESD start included."""
