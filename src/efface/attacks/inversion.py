"""Textual inversion: a new word, fitted on the erased model to pictures of the concept.

Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
arXiv:2308.01508, section 3: v* = arg min E |ε − ε_θ*(z_t, τ("a picture of v*"), t)|² over the
embedding of one token (textual inversion, arXiv:2208.01618); the rest of the prompt stays. A word
is fitted once for a concept and said in every prompt of it.

**It adds a parameter, so it may teach what the model never knew.** A hit is evidence of what is
left only beside a control: the same attack for another thing (`of`), which shows what the judge
sees without cause; and the same pictures (`pictures`) on a model that never saw the concept, which
shows what a new word alone can teach.

Deviations from the authors' code: without `pictures` the base model draws them, each learnt under
the phrase that it was drawn for. The word starts as the mean of the tokens of `start`, theirs of a
word chosen for each concept. The unguided prediction is fitted; for guidance-time methods theirs is
the guided one. What the network puts out is compared, which is ε where it predicts noise.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator as Rng
from torch import Tensor

from efface.attacks import Access
from efface.backbone import Backbone
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError, Verdict, quiet
from efface.likeness import misfit, noised
from efface.moments import beside, remembered, said_by, say, spread
from efface.phrases import PHRASINGS, judged, mention
from efface.picture_files import open_pictures
from efface.slots import Slots, embeddings, opened, reader_of


@dataclass(frozen=True)
class Inversion:
    """Fit once a concept, then draw the new word in the prompt from several noises."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = False

    pictures: str | None = None
    """Folder of pictures to learn from; none: the base model draws the concept."""
    of: str | None = None
    """Thing that is learnt in place of the concept: a control; none: the concept."""
    start: str = "object"
    """Words whose embeddings' mean the new word starts as."""
    drawings: int = 24
    """Pictures that the base draws, above 0, where no folder is given."""
    iterations: int = 5000
    """Steps, above 0. Raising it fits closer."""
    batch: int = 4
    """Pictures in a step, above 0. Raising it steadies the gradient and takes longer."""
    rate: float = 0.005
    """Adam's, above 0. Raising it fits faster."""
    seed: int = 0
    """Of the fit, which all prompts share."""
    tries: int = 1
    """Pictures drawn a root, above 0: the case's own noise, then other. More hit more."""

    def __post_init__(self) -> None:
        counts = (self.drawings, self.iterations, self.batch, self.tries, self.rate)
        if min(counts) <= 0:
            raise EffaceError("drawings, iterations, batch, tries and rate must be above 0")

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        word = fitted_word(replace(self, tries=1), opened(erased), opened(base), concept)
        with torch.no_grad():
            said = place(erased, case.prompt, concept).say(word[None, None])
        spent = 2 * self.iterations * self.batch
        soft = replace(case, embeds=said["text"].states[0])
        yield replace(soft, spent=spent)
        for _ in range(self.tries - 1):
            yield replace(soft, seed=int(torch.randint(2**31, (), generator=rng)))


class Shown(NamedTuple):
    """Pictures, and prompts of which each is learnt under one."""

    latents: Float[Tensor, "n c h w"]
    prompts: tuple[Slots, ...]
    prompt: list[int]


@lru_cache(maxsize=4)
def fitted_word(
    asked: Inversion, erased: Model, base: Model, concept: Concept
) -> Float[Tensor, "width"]:
    """v*: the embedding under which the erased model restores the pictures."""
    rng, denoiser = Rng().manual_seed(asked.seed), erased.denoiser()
    if asked.of is not None:
        concept = Concept(asked.of, (asked.of,))
    seen = _shown(asked, erased, base, concept)
    tokens = reader_of(erased).words(asked.start)
    if not len(tokens):
        raise EffaceError("the new word must start as some word: set start")
    word = embeddings(erased, tokens).mean(0).requires_grad_()
    adam = torch.optim.Adam([word], lr=asked.rate)
    for _ in range(asked.iterations):
        picks = torch.randint(len(seen.latents), (asked.batch,), generator=rng)
        times = denoiser.noise.anywhen(asked.batch, rng)
        target = noised(denoiser, seen.latents[picks], times, rng)
        which = [seen.prompt[i] for i in picks.tolist()]
        some = sorted(set(which))
        said = beside(*(seen.prompts[i].say(word[None, None]) for i in some))
        under = said_by(said, torch.tensor([some.index(i) for i in which]))
        [word.grad] = torch.autograd.grad(misfit(denoiser, target, under).mean(), word)
        adam.step()
    return word.detach()


def _shown(asked: Inversion, erased: Backbone, base: Backbone, concept: Concept) -> Shown:
    """Pictures of a folder, or the base's drawings, which it keeps on disk."""
    if asked.pictures is not None:
        latents = erased.denoiser().latents(open_pictures(Path(asked.pictures)))
        said = [phrasing.format(concept.erase[0]) for phrasing in PHRASINGS]
        which = spread(len(latents), len(said)).tolist()
    else:
        said = [phrase for phrase, _ in judged(concept)]
        pair = spread(asked.drawings, len(said))
        drawn = remembered(
            base.denoiser(),
            say(base, said),
            say(base, [""] * len(said)),
            pair,
            steps=20,
            guidance=5.0,
            seed=asked.seed,
            on_step=quiet,
        )
        latents, which = drawn.ends.to(erased.denoiser().device), pair.tolist()
    return Shown(latents, tuple(place(erased, prompt, concept) for prompt in said), which)


def place(model: Backbone, prompt: str, concept: Concept) -> Slots:
    """The prompt with one free place where it names the concept."""
    reader, (start, end) = reader_of(model), mention(prompt, concept)
    before, after = reader.words(prompt[:start]), reader.words(prompt[end:])
    room = reader.length - 3
    before = before[:room]
    words = torch.cat([before, reader.vocabulary[:1], after[: room - len(before)]])
    return Slots(model, words, torch.tensor([len(before)]))


PRESETS = {
    "small": Inversion(drawings=12, iterations=60, batch=8, rate=0.02, tries=4),
    "medium": Inversion(iterations=500, batch=8, rate=0.01, tries=8),
    "paper": Inversion(drawings=25, batch=16, tries=10),
}
