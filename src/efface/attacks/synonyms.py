"""Other words for the concept: from the model's own table, or from a file of the user's.

Erasing the word "car" leaves "automobile" (MACE calls what is left of it generality,
arXiv:2403.06135, section 4.1; its synonyms are the authors', ours are the model's).

Deviations from the authors' code: theirs draws three synonyms of each object as further test
prompts; here they are queries of one attack.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Generator as Rng

from efface.attacks import Access
from efface.backbone import Backbone
from efface.backbones.model import Model
from efface.core import Case, Concept, EffaceError, Verdict
from efface.phrases import mention, put
from efface.wording import reworded

Table = Mapping[str, tuple[str, ...]]
"""Word -> other words for the same."""


@dataclass(frozen=True)
class Synonyms:
    """Every other word that the table has, once."""

    access: ClassVar[Access] = "none"
    from_picture: ClassVar[bool] = False

    table: str | None = None
    """JSON file of word -> list of other words; none: the model's own `synonyms.json`."""

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        known = _own(base) if self.table is None else read_table(Path(self.table))
        start, end = mention(case.prompt, concept)
        said = case.prompt[start:end].lower()
        words = (put(case.prompt, concept, other) for other in others(said, known))
        yield from reworded(erased, case, words)


def _own(base: Backbone) -> Table:
    """The model's own table."""
    return base.synonyms if isinstance(base, Model) else {}


def others(said: str, known: Table) -> Iterator[str]:
    """Other ways to say a phrase that is in the table, as a word or another for one, or has one."""
    for word, more in known.items():
        ways = (word, *more)
        if said in ways:
            yield from (way for way in ways if way != said)
        elif f" {word} " in f" {said} ":
            yield from (f" {said} ".replace(f" {word} ", f" {other} ").strip() for other in more)


def read_table(path: Path) -> Table:
    """Word -> other words, from a JSON file."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EffaceError(f"{path} cannot be read as JSON ({error}): give word -> words") from error
    if not isinstance(told, dict) or not all(
        isinstance(ways, list) and all(isinstance(way, str) for way in ways)
        for ways in told.values()
    ):
        raise EffaceError(f'{path} is no table of synonyms: write {{"word": ["other", ...]}}')
    return {str(word).lower(): tuple(ways) for word, ways in told.items()}


PRESETS = {"small": Synonyms(), "medium": Synonyms(), "paper": Synonyms()}
