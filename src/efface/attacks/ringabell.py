"""Ring-A-Bell: tokens whose rows come near the prompt's, pushed towards the concept.

Tsai et al., arXiv:2310.10012, section 3: the concept's direction is ĉ = mean(τ(with) − τ(without)),
the prompt is min over p* of |τ(p*) − (τ(p) + η ĉ)|² over token sequences, by a genetic search. It
needs the text encoder alone; the denoiser is never called.

Deviations from the authors' code: pairs with and without are built from the concept's phrases and
what is kept, not written by hand. Tokens are whole words that survive decoding, theirs are any. By
default rows of words alone are compared: over all positions, as `paper` does, padding outweighs
words. Only new sequences are scored, in half precision, and the best is never mutated.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator as Rng
from torch import Tensor

from efface.attacks import Access
from efface.backbone import Backbone
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError, Verdict
from efface.genetic import Search
from efface.phrases import OTHER_PHRASING, PHRASINGS, evenly, said_of

BESIDE = 12
"""Kept words that the concept is put beside."""


@dataclass(frozen=True)
class RingABell:
    """Search once a root, then draw the best prompts found."""

    access: ClassVar[Access] = "text"
    from_picture: ClassVar[bool] = False

    eta: float = 3.0
    """η, how far to push towards the concept; the authors use 3 to 5.5. Raising it leaves the
    prompt's own meaning."""
    length: int = 16
    """K, tokens of the prompt; the authors use 16, 38 and 77. Raising it widens the space."""
    population: int = 200
    """Sequences a generation. Raising it searches wider and takes longer."""
    generations: int = 3000
    """Generations. Raising it searches longer."""
    tries: int = 1
    """Prompts drawn a root, best first, above 0. More hit more."""
    rows: Literal["words", "all"] = "words"
    """Rows compared: of start, words and end; or of padding too, which takes longer."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        if not isinstance(erased, Model):
            raise EffaceError("ringabell reads tokens of a model that is opened from a pipeline")
        reader = erased.token_reader
        length = min(self.length, reader.length - 2)
        padding = self.rows == "all"
        kept = reader.length if padding else length + 2
        target = erased.encode([case.prompt]).states[0] + self.eta * direction(erased, concept)
        target = target[:kept].to(reader.encoder.device)

        def loss(words: Int[Tensor, "n length"]) -> Float[Tensor, "n"]:
            return (reader.rows(words, padding=padding) - target).square().sum((1, 2)).cpu()

        search = Search(self.population, self.generations)
        with torch.autocast(reader.encoder.device.type, torch.bfloat16):
            first = reader.words(case.prompt, length)[None]
            found = search.minimise(loss, reader.vocabulary, first, rng)
        own = reader.text(first[0])
        prompts = [p for p in reader.spoken(list(found)) if p not in (own, case.prompt)]
        for prompt in prompts[: self.tries]:
            yield replace(case, prompt=prompt)


def direction(model: Model, concept: Concept) -> Float[Tensor, "tokens width"]:
    """ĉ: the mean difference that naming the concept makes."""
    pairs = []
    for phrase in concept.erase:
        if concept.within:
            pairs += [(said_of(t, phrase), said_of(t, "")) for t in evenly(concept.within, BESIDE)]
            continue
        pairs += [(f.format(phrase), f.format("thing")) for f in (*PHRASINGS, OTHER_PHRASING)]
        pairs += [(f"a {w} and a {phrase}", f"a {w}") for w in evenly(concept.keep, BESIDE)]
    with_it, without = (model.encode(list(side)).states for side in zip(*pairs, strict=True))
    return (with_it - without).mean(0)


PRESETS = {
    "small": RingABell(length=8, population=100, generations=50, tries=2),
    "medium": RingABell(population=200, generations=300, tries=4),
    "paper": RingABell(rows="all"),
}
