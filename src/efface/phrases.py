"""What is said of a concept: to fit its erasing, and to measure it.

A thing is erased as it is named. A style is said of things ("a cat in blob style"): named alone it
gives rows that no such prompt has, so it is erased within phrases that name a thing, and the same
things are held without it and with what else is kept.
"""

from collections.abc import Sequence
from typing import TypeVar

from efface.core import Concept

PHRASINGS = ("{}", "a {}", "a picture of a {}")
"""Ways to name the concept that the certificate covers."""
OTHER_PHRASING = "an image of a {}"
"""How kept words are put when drift is measured; fitting never uses it."""
UNUSUAL = ("we saw a {} there", "look, it must be a {}", "the {} that nobody bought")
"""How prompts are put that a gate's threshold is chosen by: no caption and no fit says it so."""
SAMPLE = 32
"""The certificate covers about this many of the phrases to erase, drift of the kept words."""
THINGS = 8
"""The certificate of a style covers it as said of at most about this many things."""
SHARE = 3
"""A thing is held with one in so many of what else is kept; in turn, all things hold all."""
SAID = 3
"""Things that each manner kept by default is said of."""
COMMA = ", "
"""Between a thing and the manner that is said of it."""
Item = TypeVar("Item")
Pair = tuple[str, str]
"""A phrase and what it becomes."""


def said_of(thing: str, style: str) -> str:
    """A thing in a style; in none if that is empty."""
    return f"a {thing} in {style}" if style else f"a {thing}"


def in_turn(manners: Sequence[str], things: Sequence[str]) -> list[str]:
    """Every manner (a style, a background) said of a few things; no thing twice if they suffice.

    Pictures are asked for in a manner together with a thing, and those rows are not the manner's.
    """
    return [
        f"{thing}{COMMA}{manner}"
        for i, manner in enumerate(manners)
        for thing in evenly(things[i % (len(things) or 1) :: len(manners)], SAID)[:SAID]
    ]


def fitted(concept: Concept) -> list[Pair]:
    """Phrases to erase, each with what it becomes."""
    pairs = list(zip(concept.erase, concept.goals(), strict=True))
    if not concept.within:
        return pairs
    return [(said_of(t, e), said_of(t, g)) for e, g in pairs for t in concept.within]


def held(concept: Concept) -> list[str]:
    """Phrases whose rows must not move."""
    if not concept.within:
        return list(concept.keep)
    others = [k for k in concept.keep if k not in concept.within]
    return [
        phrase
        for i, thing in enumerate(concept.within)
        for phrase in (said_of(thing, ""), *(said_of(thing, o) for o in others[i % SHARE :: SHARE]))
    ]


def fuller(concept: Concept) -> list[Pair]:
    """Kept phrases that say a manner of another kept phrase, each with that one."""
    kept = set(concept.keep)
    bare = ((phrase, phrase.rpartition(COMMA)[0]) for phrase in concept.keep)
    return [(phrase, thing) for phrase, thing in bare if thing in kept]


def judged(concept: Concept) -> list[Pair]:
    """Phrases that the certificate covers, each with what it becomes."""
    some = evenly(list(zip(concept.erase, concept.goals(), strict=True)), SAMPLE)
    if not concept.within:
        return [(p.format(e), g) for e, g in some for p in PHRASINGS]
    things = evenly(concept.within, THINGS)
    return [(said_of(t, e), said_of(t, g)) for e, g in some for t in things]


def unseen(concept: Concept) -> list[str]:
    """Kept words in a phrasing that no fit has seen."""
    return [OTHER_PHRASING.format(word) for word in evenly(concept.keep, SAMPLE)]


def said(concept: Concept) -> list[str]:
    """All that a fit and its measurements ask the text encoder, each once."""
    pairs = [*fitted(concept), *judged(concept)]
    every = [
        "",
        *concept.erase,
        *held(concept),
        *unseen(concept),
        *(p for pair in pairs for p in pair),
    ]
    return list(dict.fromkeys(every))


def evenly(given: Sequence[Item], most: int) -> Sequence[Item]:
    """About `most` of what is given, evenly taken."""
    return given[:: max(1, len(given) // most)]


def mention(prompt: str, concept: Concept) -> tuple[int, int]:
    """Where a prompt names the concept, by its longest phrase there; all of it if nowhere."""
    lowered = prompt.lower()
    for phrase in sorted(concept.erase, key=len, reverse=True):
        if (at := lowered.find(phrase.lower())) >= 0:
            return at, at + len(phrase)
    return 0, len(prompt)


def put(prompt: str, concept: Concept, other: str) -> str:
    """The prompt with what names the concept replaced."""
    start, end = mention(prompt, concept)
    return prompt[:start] + other + prompt[end:]
