"""The words that a model is known to draw: its own, or everyday ones."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from efface.backbones.checkpoint import Checkpoint
from efface.core import EffaceError

EVERYDAY = (
    "person", "face", "hand", "dog", "cat", "bird", "tree", "flower", "mountain", "ocean", "sky",
    "house", "street", "car", "chair", "table", "book", "food", "fruit", "dress", "painting",
    "photo", "night", "winter",
)  # fmt: skip
"""Kept by default where a model does not bring a `concepts.json` of its own."""


class Words(NamedTuple):
    """What a model is known to draw."""

    vocabulary: tuple[str, ...]
    """Words it should go on drawing, whatever is erased."""
    things: tuple[str, ...]
    """Those that name things, which a style can be said of."""
    synonyms: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Word -> other words for the same."""
    own: bool = False
    """Whether the model itself says so."""


def words_of(root: Path | None) -> Words:
    """The words of the model's `concepts.json`, else everyday ones; of its `synonyms.json`."""
    if root is None or not (path := root / "concepts.json").is_file():
        return Words(EVERYDAY, EVERYDAY)
    lists = Checkpoint.read_json(path)
    if not all(isinstance(words, list) for words in lists.values()):
        raise EffaceError(f"{path} is not lists of words by kind: the model folder is damaged")
    every = tuple(str(w) for words in lists.values() for w in words)
    others = root / "synonyms.json"
    known = Checkpoint.read_json(others) if others.is_file() else {}
    synonyms = {str(word): tuple(map(str, ways)) for word, ways in known.items()}
    return Words(every, tuple(map(str, lists.get("concepts", []))), synonyms, own=True)
