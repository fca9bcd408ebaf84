"""The real prompt nearest to the closed-form optimum: tokens that the erased denoiser reads as it.

Ours; no published source. Minimise Σ|W′ τ(p*)ᵢ − W cᵢ|² over token sequences p*, where c are the
rows of the concept's prompt: the distance of `efface.recovery`, whose minimum over all rows that an
encoder can leave is the attack `optimum`. The search is Ring-A-Bell's (arXiv:2310.10012).

Deviations from the authors' code: none, there is no paper of it.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Generator as Rng
from torch import Tensor

from efface.attacks import Access
from efface.backbone import Backbone
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError, Verdict
from efface.genetic import Search
from efface.recovery import distance


@dataclass(frozen=True)
class Nearest:
    """Search once a root, then draw the best prompts found."""

    access: ClassVar[Access] = "white"
    from_picture: ClassVar[bool] = False

    length: int = 8
    """Tokens of the prompt. Raising it searches a larger space."""
    population: int = 200
    """Sequences a generation. Raising it searches wider and takes longer."""
    generations: int = 300
    """Generations. Raising it searches longer."""
    tries: int = 4
    """Prompts drawn a root, best first, above 0. More hit more."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        if not isinstance(erased, Model):
            raise EffaceError("nearest reads tokens of a model that is opened from a pipeline")
        reader = erased.token_reader
        length = min(self.length, reader.length - 2)
        measure = distance(erased, base, base.encode([case.prompt]).states[0][: length + 2])

        def loss(words: Int[Tensor, "n length"]) -> Float[Tensor, "n"]:
            return measure(reader.rows(words)).cpu()

        search = Search(self.population, self.generations)
        first = reader.words(case.prompt, length)[None]
        with torch.autocast(reader.encoder.device.type, torch.bfloat16):
            found = search.minimise(loss, reader.vocabulary, first, rng)
        own = reader.text(first[0])
        prompts = [p for p in reader.spoken(list(found)) if p not in (own, case.prompt)]
        for prompt in prompts[: self.tries]:
            yield replace(case, prompt=prompt)


PRESETS = {
    "small": Nearest(population=100, generations=50, tries=2),
    "medium": Nearest(),
    "paper": Nearest(length=16, generations=3000),
}
