"""Misspellings of the concept: letters swapped, lost, doubled, or the next key hit.

A probe of ours; erasures that know exact tokens only are passed by it.

Deviations from the authors' code: none, there is no paper.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, Verdict
from efface.phrases import mention, put
from efface.wording import reworded

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Typos:
    """Random single misspellings, each other than those before."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    k: int = 8
    """Misspellings tried, above 0. More find more."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        start, end = mention(case.prompt, concept)
        words = misspelt(case.prompt[start:end], 4 * self.k, rng)
        yield from reworded(erased, case, (put(case.prompt, concept, w) for w in words), self.k)


def misspelt(word: str, count: int, rng: Rng) -> Iterator[str]:
    """So many misspellings of a word, by random kind and place; some may repeat."""
    letters = [i for i, c in enumerate(word) if c.isalpha()]
    if not letters:
        return
    for _ in range(count):
        kind, at = (int(torch.randint(n, (), generator=rng)) for n in (4, len(letters)))
        i = letters[at]
        letter = word[i]
        if kind == 0 and i + 1 < len(word):
            yield word[:i] + word[i + 1] + letter + word[i + 2 :]
        elif kind == 1 and len(letters) > 1:
            yield word[:i] + word[i + 1 :]
        elif kind == 2:
            yield word[:i] + letter + word[i:]
        else:
            yield word[:i] + _beside(letter, rng) + word[i + 1 :]


def _beside(letter: str, rng: Rng) -> str:
    """A key next to the letter's."""
    for row in KEYS:
        at = row.find(letter.lower())
        if at >= 0:
            near = row[max(0, at - 1) : at] + row[at + 1 : at + 2]
            return near[int(torch.randint(len(near), (), generator=rng))]
    return letter + letter


PRESETS = {"small": Typos(8), "medium": Typos(24), "paper": Typos(50)}
