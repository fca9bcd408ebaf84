"""Concept Ablation: teach the denoiser to see an anchor where the concept is named.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516, ICCV 2023.
At pictures of the anchor, noised to x_t, the prediction under the concept c* is regressed onto the
model's own under the anchor c (model-based, Eq. 4), |Φ(x_t, c*, t) − sg Φ(x_t, c, t)|², or onto the
noise itself (noise-based, Eq. 5). The concept's goal (`toward`) is its anchor.

Deviations from the authors' code: no augmentation of the pictures and so no mask in the loss; the
start token's keys and values are trained like the others; pictures are the base's own final
latents, which are never decoded; prompts are the phrases given, where theirs are captions written
by a language model; Adam does not decay weights. Losses are means over all numbers. Their mask
makes the ablation's a sum over the latent's four channels but not the prior's, so that a prior of 1
in their diffusers code is 0.25 here (their first code weighs it 0.2); it is taken at the same x_t,
theirs at other pictures'. `keep_weight` and `most_moved` are ours, 0 and none in their code. The
noise is said in the form that the network's output has.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from efface.backbone import Backbone, Denoiser
from efface.core import Concept, OnStep
from efface.layers import Layers, chosen
from efface.lesson import (
    WATCHED,
    Drawing,
    Pool,
    drawn_pairs,
    kept_pool,
    said_of_concept,
    seed_of,
    with_base,
)
from efface.moments import beside, remembered, said_by, say
from efface.patch import Patch, dense
from efface.settings import at_least
from efface.taught import Taught
from efface.train import Weights, standing_of


@dataclass(frozen=True)
class Ablation(Taught):
    """Settings of one fine-tuning; drawings are pictures of the anchor."""

    rate: float = 5e-4
    """Adam's learning rate, above 0. Higher needs fewer steps and moves neighbours more."""
    layers: Layers = "kv"
    """What is trained: kv (keys and values of cross-attention), x (all of it), u, self, full."""
    teacher: Literal["anchor", "noise"] = "anchor"
    """Onto what: the model's prediction under the anchor, or the noise that was added."""
    prior_weight: float = 0.0
    """Weight, from 0, of predicting the noise under the anchor; 0.25 if c* contains the anchor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "prior_weight")

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The trained weights less the model's own."""
        story: dict[str, Any] = {"name": "ablation", **asdict(self)}
        standing = standing_of(model, concept, story, rng)
        anchors = self.anchors(model, concept, rng, on_step)
        base = self.parameters(anchors.denoiser)

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            return self.loss(anchors, weights, generator)

        trained = self.learn(base, loss, anchors.kept, rng, on_step, standing)
        on_step("training", 1, 1)
        facts = trained.facts(anchors.seen.moved, anchors.kept.moved)
        edits = dense(base, trained.weights)
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)

    def parameters(self, denoiser: Denoiser) -> dict[str, Tensor]:
        """What is trained, as it is in the base."""
        return {n: denoiser.weight(n) for n in chosen(denoiser.names(), self.layers)}

    def anchors(
        self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep
    ) -> "Anchors":
        """What is learned from."""
        drawing = Drawing(self.drawings, self.drawing_steps, self.drawing_guidance)
        return Anchors(model, concept, drawing, self.kept_drawings, rng, on_step)

    def loss(self, anchors: "Anchors", weights: Weights, rng: Generator) -> Tensor:
        """Eq. 4 or 5, the prior's term, and kept prompts as before; one call for all of them."""
        denoiser, count = anchors.denoiser, self.batch
        latents, times, pair, noise = anchors.some(count, rng)
        concept, anchor = said_by(anchors.named, pair), said_by(anchors.other, pair)
        goal = noise
        if self.teacher == "anchor":
            with torch.no_grad():
                goal = denoiser.predict(latents, times, anchor, weights)
        asked = [(latents, times, concept, goal, 1.0)]
        if self.prior_weight:
            asked.append((latents, times, anchor, noise, self.prior_weight))
        if self.keep_weight:
            keep, said = anchors.kept.some(count, rng)
            asked.append((keep.latents, keep.times, said, keep.named, self.keep_weight))
        places, when, prompts, goals, shares = zip(*asked, strict=True)
        out = denoiser.predict(torch.cat(places), torch.cat(when), beside(*prompts), weights)
        losses = [mse_loss(o, g) for o, g in zip(out.split(count), goals, strict=True)]
        return sum((s * x for s, x in zip(shares, losses, strict=True)), out.new_zeros(()))


class Anchors:
    """Pictures of a concept's anchors, by the base."""

    def __init__(
        self,
        model: Backbone,
        concept: Concept,
        drawing: Drawing,
        kept: int,
        rng: Generator,
        on_step: OnStep,
    ) -> None:
        self.denoiser = model.denoiser()
        self.named, self.other = said_of_concept(model, concept)
        self.pair = drawn_pairs(model, concept, drawing.count, self.named)
        nothing = said_by(say(model, [""]), torch.zeros_like(self.pair))
        drawn = remembered(
            self.denoiser,
            said_by(self.other, self.pair),
            nothing,
            torch.arange(len(self.pair)),
            steps=drawing.steps,
            guidance=drawing.guidance,
            seed=seed_of(rng),
            on_step=on_step,
        )
        self.pictures = drawn.ends
        self.kept = kept_pool(model, concept, drawing, kept, seed_of(rng), on_step)
        few = drawn.at(torch.linspace(0, len(drawn.times) - 1, WATCHED).long())
        few = few._replace(pair=self.pair[few.pair])
        said = (said_by(s, few.pair) for s in (self.named, self.other))
        self.seen = Pool(self.denoiser, self.named, with_base(self.denoiser, few, *said))
        """Moments of the anchor's drawings, where it is looked how the concept is predicted."""

    def some(self, count: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_t, t, which pair of prompts, and the output that would say the noise."""
        which = torch.randint(len(self.pictures), (count,), generator=rng)
        pictures = self.pictures[which]
        times = self.denoiser.noise.anywhen(count, rng).to(pictures.device)
        noise = torch.randn(pictures.shape, generator=rng).to(pictures.device)
        alpha, sigma = self.denoiser.noise.levels(times)
        said = self.denoiser.noise.joined(pictures, noise, times)
        return alpha * pictures + sigma * noise, times, self.pair[which], said


PRESETS = {
    "paper": Ablation(
        steps=200,
        rate=8e-6,
        batch=4,
        drawings=1000,
        drawing_steps=50,
        drawing_guidance=6.0,
        keep_weight=0.0,
    ),
}
"""paper: the released code on one GPU, 1000 pictures of the anchor."""
