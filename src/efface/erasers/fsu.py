"""FSU: few-shot unlearning, a few ascending steps of the text encoder on a few pictures.

Fuchi and Takagi, "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning",
arXiv 2405.07288, BMVC 2024. The denoiser stays; of the CLIP text encoder the feed-forward layers
and the last layer's self-attention ascend the diffusion loss on pictures x₀ of the concept c,
max_φ E |f(x_t, t, E_φ(c)) − target|², for a handful of updates: the paper's loss has no bound, no
anchor and nothing that is retained, so when it stops is what decides.

Deviations from the authors' code: pictures may be drawn by the base model (`pictures` none); those
of a folder are scaled to the model's size without a crop, and flipped at random once, as theirs,
but coded to their mean. An update's pictures, times and phrasings are drawn with replacement, its
phrasings are ours, Adam's constants are torch's but for the rate. The text encoder of the last
update is kept, theirs saves one an epoch and leaves the choice to the user; `most_moved` chooses.
`keep_weight`, ours, holds kept prompts' rows against the base's: drift, as the certificate's page
defines it, of a few of them and the empty prompt in every update. The paper's form is the preset.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from PIL.ImageOps import mirror
from torch import Generator, Tensor

from efface.backbone import Backbone, Speaker
from efface.backbones.fingerprint import roundings
from efface.core import Concept, EffaceError, OnStep, Said
from efface.lesson import seed_of
from efface.likeness import misfit, noised
from efface.moments import remembered, said_by, say, spread
from efface.patch import Patch, dense
from efface.phrases import SAMPLE, held, judged
from efface.picture_files import open_pictures
from efface.settings import at_least, positive
from efface.tokens import check_spoken
from efface.train import Trained, Watch, Weights, standing_of, train


@dataclass(frozen=True)
class FSU:
    """Settings of the ascent."""

    pictures: str | None = None
    """Folder of pictures of the concept, one or more; none means that the base model draws them."""
    drawings: int = 4
    """Pictures that the base model draws, from 1, where no folder is given."""
    drawing_steps: int = 20
    """Steps of a drawing, from 1."""
    drawing_guidance: float = 5.0
    """Guidance of the drawings. Higher makes them more typical of the concept."""
    steps: int = 40
    """Updates, from 0. More erase harder and spoil what is kept."""
    rate: float = 1e-4
    """Adam's learning rate, above 0. Higher needs fewer steps."""
    batch: int = 2
    """Pictures in an update, from 1. Higher is steadier and slower."""
    keep_weight: float = 50.0
    """Weight, from 0, of kept prompts' rows staying where they are; 0 is the paper's."""
    keep_batch: int = 8
    """Kept prompts in an update, from 1."""
    most_moved: float | None = None
    """Stop before kept prompts' rows drift by more than this share; none: never."""

    def __post_init__(self) -> None:
        at_least(self, 1, "drawings", "drawing_steps", "batch", "keep_batch")
        at_least(self, 0, "steps", "keep_weight")
        positive(self, "rate")

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The trained weights less the model's own; `toward` has no part in the method."""
        concept = replace(concept, toward=("",))
        speaker, denoiser = model.speaker(), model.denoiser()
        base = {name: speaker.weight(name) for name in trained_names(speaker.names())}
        phrases = tuple(phrase for phrase, _ in judged(concept))
        check_spoken(model.encode(phrases, model.streams[0]), phrases)
        shown = self._shown(model, phrases, rng, on_step)
        words = ["", *held(concept)]
        held_rows = Held(model, speaker, words)
        story: dict[str, Any] = {"name": "fsu", **asdict(self)}
        reads = {name: roundings([weight]) for name, weight in base.items()}
        seen = hashlib.sha256(shown.latents.cpu().numpy().tobytes()).hexdigest()
        standing = standing_of(model, concept, {**story, "seen": seen, "reads": reads}, rng)

        def loss(weights: Weights, step: int, generator: Generator) -> Tensor:
            picks = torch.randint(len(shown.latents), (self.batch,), generator=generator)
            said = [shown.phrases[i] for i in self._phrasings(shown, picks, generator)]
            kept = self._kept(len(words), generator)
            rows = speaker.say([*said, *(words[i] for i in kept)], weights)
            erased = said_by(rows, torch.arange(self.batch))
            times = denoiser.noise.anywhen(self.batch, generator)
            seen = noised(denoiser, shown.latents[picks], times, generator)
            ascent = -misfit(denoiser, seen, erased).mean()
            if not kept:
                return ascent
            after = said_by(rows, torch.arange(self.batch, self.batch + len(kept)))
            return ascent + self.keep_weight * held_rows.drift(after, torch.tensor(kept))

        few = torch.arange(len(words))[:: max(1, len(words) // SAMPLE)]
        watch = None
        if self.most_moved is not None:
            watch = Watch(lambda weights: held_rows.moved(weights, few), self.most_moved, 1)
        trained: Trained = train(
            base,
            loss,
            steps=self.steps,
            rate=self.rate,
            rng=rng,
            on_step=on_step,
            watch=watch,
            standing=standing,
        )
        on_step("training", 1, 1)
        facts = trained.facts(
            lambda weights: Held(model, speaker, ["", *phrases]).moved(weights),
            lambda weights: held_rows.moved(weights, few),
        )
        edits = tuple(replace(e, reads=reads[e.param]) for e in dense(base, trained.weights))
        return Patch(concept, story, model.fingerprint, edits=edits, facts=facts)

    def _shown(
        self, model: Backbone, phrases: Sequence[str], rng: Generator, on_step: OnStep
    ) -> "Shown":
        """Pictures of a folder, which show whatever is erased, or the base's drawings."""
        if self.pictures is not None:
            files = open_pictures(Path(self.pictures))
            flips = torch.rand(len(files), generator=rng) < 0.5
            turned = [mirror(f) if flip else f for f, flip in zip(files, flips, strict=True)]
            latents = model.denoiser().latents(turned)
            return Shown(latents, phrases, [list(range(len(phrases)))] * len(files))
        named, empty = say(model, phrases), say(model, [""] * len(phrases))
        pair = spread(self.drawings, len(phrases))
        drawn = remembered(
            model.denoiser(),
            named,
            empty,
            pair,
            steps=self.drawing_steps,
            guidance=self.drawing_guidance,
            seed=seed_of(rng),
            on_step=on_step,
        )
        return Shown(drawn.ends, phrases, [[i] for i in pair.tolist()])

    def _kept(self, count: int, rng: Generator) -> list[int]:
        """Prompts to hold in an update: the empty one and others at random."""
        if not self.keep_weight:
            return []
        return [0, *torch.randint(count, (self.keep_batch - 1,), generator=rng).tolist()]

    @staticmethod
    def _phrasings(shown: "Shown", picks: Tensor, rng: Generator) -> list[int]:
        """A phrasing at random for every picture."""
        fitting = [shown.fitting[i] for i in picks.tolist()]
        return [f[int(torch.randint(len(f), (1,), generator=rng))] for f in fitting]


class Shown(NamedTuple):
    """Pictures of the concept, with the phrases that may be said of each."""

    latents: Float[Tensor, "n c h w"]
    phrases: Sequence[str]
    fitting: Sequence[Sequence[int]]


def trained_names(names: Sequence[str]) -> list[str]:
    """Every feed-forward layer, and the self-attention of each encoder's last layer (section 3)."""
    chosen = list[str]()
    for component in dict.fromkeys(n.partition("/")[0] for n in names):
        own = [n for n in names if n.startswith(f"{component}/")]
        numbers = [
            int(n.split("encoder.layers.")[1].split(".")[0]) for n in own if ".mlp.fc1." in n
        ]
        if not numbers:
            raise EffaceError(
                f"few-shot unlearning trains CLIP text encoders alone, and this model's {component}"
                " is none: it would go on saying the concept, erase with rece or esd"
            )
        last = f".layers.{max(numbers)}.self_attn."
        chosen += [n for n in own if ".mlp." in n or last in n]
    return chosen


class Held:
    """How far rows of prompts go: Σ‖G^½ (E_φ(c) − E(c))‖² / Σ‖G^½ (E(c) − E(""))‖², a stream each.

    The first prompt is the empty one.
    """

    def __init__(self, model: Backbone, speaker: Speaker, prompts: Sequence[str]) -> None:
        self._speaker, self._prompts = speaker, prompts
        self._before = {s: model.encode(prompts, s).states for s in model.streams}
        self._grams: Mapping[str, Tensor] = {s: model.gram(s).float() for s in model.streams}

    def drift(self, after: Said, which: Tensor) -> Float[Tensor, ""]:
        """Of the prompts of these numbers, all streams together."""
        total = torch.zeros(())
        for stream, before in self._before.items():
            says = self._length(stream, before - before[:1]) / len(before)
            off = self._length(stream, after[stream].states - before[which]) / len(which)
            total = total + off / says.clamp(min=torch.finfo(torch.float32).tiny)
        return total

    def _length(self, stream: str, rows: Float[Tensor, "n tokens width"]) -> Float[Tensor, ""]:
        return ((rows @ self._grams[stream]) * rows).sum()

    @torch.no_grad()
    def moved(self, weights: Weights, which: Tensor | None = None) -> float:
        """Of some prompts, or all."""
        some = torch.arange(len(self._prompts)) if which is None else which
        said = self._speaker.say([self._prompts[i] for i in some.tolist()], weights)
        return self.drift(said, some).item()


PRESETS = {
    "paper": FSU(steps=10, rate=1e-5, keep_weight=0.0),
    "no-retain": FSU(steps=20, keep_weight=0.0),
}
"""paper: the released code, for SD 1.5: four pictures, two an update, five epochs, none retained.
no-retain: the paper's loss at a rate and length that erase from the bundled model."""
