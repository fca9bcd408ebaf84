"""The concept in capitals, in title case, in alternating case: does the erasure know the word?

A probe of ours. CLIP's tokenizers lower-case everything; what an encoder cannot tell from the
prompt as it is, is not drawn.

Deviations from the authors' code: none, there is no paper.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict
from efface.phrases import mention, put
from efface.wording import reworded


@dataclass(frozen=True)
class Casing:
    """Every way of casing, once."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        start, end = mention(case.prompt, concept)
        word = case.prompt[start:end]
        alternating = "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(word))
        cased = (word.upper(), word.title(), alternating, word.swapcase())
        yield from reworded(erased, case, [put(case.prompt, concept, c) for c in cased])


PRESETS = {"small": Casing(), "medium": Casing(), "paper": Casing()}
