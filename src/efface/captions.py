"""Captions to learn features from: a user's text file, one a line, or said of a model's own words.

A file is read line by line and checked whole before any work is done on it.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from efface.core import EffaceError

FEWEST = 16
"""Captions below which nothing can be learned."""
LONGEST = 1 << 14
"""Bytes of a line; a caption that a text encoder reads whole has hundreds."""
NOUNS = ("emoji", "photo", "drawing", "icon", "illustration", "sketch")
LOOKS = ("small", "big", "cute", "simple", "colorful")
OPENINGS = ("", "a ", "the ", "my ", "one ")
"""What stands before a thing."""
JOINTS = (" and a ", " with a ", " next to a ")
"""What stands between two things."""


@runtime_checkable
class Captions(Protocol):
    """Texts that can be gone through again and again in one order."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def digest(self) -> str:
        """Hash of them all."""

    def read(self) -> Iterator[str]:
        """Each in turn."""


@dataclass(frozen=True)
class Listed:
    """Captions in memory."""

    texts: Sequence[str]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.texts)

    @property
    def digest(self) -> str:
        """Hash of them all."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()

    def read(self) -> Iterator[str]:
        """Each in turn."""
        return iter(self.texts)


class CaptionFile:
    """Captions in a file, of which one line at a time is held."""

    def __init__(self, path: Path) -> None:
        """Goes through the whole file once, and refuses it in one sentence."""
        self.path = path
        told = hashlib.sha256()
        self.count = 0
        for text in self.read():
            told.update(f"{text}\n".encode())
            self.count += 1
        if self.count < FEWEST:
            what = {0: "no caption", 1: "one caption"}.get(self.count, f"{self.count} captions")
            raise EffaceError(
                f"{path} holds {what}: give at least {FEWEST}, one a line, better thousands"
            )
        self.digest = told.hexdigest()

    def read(self) -> Iterator[str]:
        """Each line that is not blank, in turn."""
        try:
            if not self.path.is_file():
                there = "is not a regular file" if self.path.exists() else "does not exist"
                raise EffaceError(f"{self.path} {there}: give a text file, one caption a line")
            with self.path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
                    if len(line) == LONGEST:
                        raise EffaceError(
                            f"{self.path}: line {number} has {LONGEST} bytes or more: give one "
                            "caption a line"
                        )
                    if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                        yield text
        except UnicodeDecodeError as error:
            raise EffaceError(
                f"{self.path}: line {number} is not UTF-8: save the file as UTF-8"
            ) from error
        except OSError as error:
            raise EffaceError(
                f"{self.path} cannot be read ({error.strerror}): give another file"
            ) from error


def said(things: Sequence[str], others: Sequence[str], count: int, seed: int) -> Listed:
    """`count` captions of things, alone, in pairs and with the model's other words."""
    if not things:
        raise EffaceError("no captions can be made of no words: give a file with --captions")
    rng = random.Random(seed)

    def chance(share: float) -> bool:
        return rng.random() < share

    one = rng.choice

    def caption(thing: str) -> str:
        look = f"{one(LOOKS)} " if chance(0.15) else ""
        text = f"{one(OPENINGS)}{look}{thing}"
        if chance(0.15) and len(things) > 1:
            text += one(JOINTS) + one(things)
        if chance(0.35):
            text = f"a {one(NOUNS)} of {text}"
        if others and chance(0.6):
            text += f"{one((' ', ', ', ' in ', ' on a '))}{one(others)}"
        if others and chance(0.3):
            text += f", {one(others)}"
        return text

    words = itertools.cycle([*things, *others])
    made = [caption(next(words)) for _ in range(count)]
    rng.shuffle(made)
    return Listed(made)
