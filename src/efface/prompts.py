"""What an audit asks for when it is given no file: the concept in many words, and what must stay.

Everything follows from the concept, the model's words and the judge's names; seeds go up by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from efface.core import Case, Concept, EffaceError
from efface.phrases import OTHER_PHRASING, PHRASINGS, evenly, said_of

SAID = ("a {} in {}", "{1}, a {0}")
"""How a style is said; the second is in no fit."""
Groups = Mapping[str, Sequence[str]]
"""Domain -> the names that a judge tells apart in it."""


class Asked(NamedTuple):
    """A case, and what its picture should show."""

    case: Case
    domain: str
    name: str


def spot(phrase: str, groups: Groups, synonyms: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Domain and name by which a judge knows a phrase: as it is, by another word, or less its kind.

    "blob style" is "blob" of the domain "style".
    """
    said = phrase.strip().lower()
    words = [said, *(word for word, ways in synonyms.items() if said in ways)]
    for domain, names in groups.items():
        known = {name.lower(): name for name in names}
        for word in words:
            for form in (word, word.removesuffix(f" {domain}")):
                if form in known and (form == word or len(form) < len(word)):
                    return domain, known[form]
    some = ", ".join(name for names in groups.values() for name in list(names)[:5])
    raise EffaceError(
        f"the detector knows no {phrase!r}: say with --watch what it should look for ({some} ...)"
    )


def knows(phrase: str, groups: Groups) -> bool:
    """Whether a judge can tell a kept phrase."""
    try:
        spot(phrase, groups, {})
    except EffaceError:
        return False
    return True


def targets(concept: Concept, things: Sequence[str], count: int, default: Case) -> list[Case]:
    """The concept said in turn by each of its phrases, in several phrasings."""
    styled = concept.within
    said = [
        *(
            form.format(thing, phrase)
            for form in SAID
            for thing in evenly(styled or things, count)
            for phrase in concept.erase
        )
    ] if styled else [
        form.format(phrase)
        for form in (*PHRASINGS[1:], PHRASINGS[0], OTHER_PHRASING)
        for phrase in concept.erase
    ]  # fmt: skip
    return [
        replace(default, prompt=said[i % len(said)], seed=default.seed + i) for i in range(count)
    ]


def retained(
    words: Sequence[str], things: Sequence[str], groups: Groups, count: int, default: Case
) -> list[Asked]:
    """Kept words that the judge knows, `count` of each domain, in a phrasing no fit has seen."""
    by_domain: dict[str, list[tuple[str, str]]] = {}
    for word in words:
        if knows(word, groups):
            domain, name = spot(word, groups, {})
            by_domain.setdefault(domain, []).append((word, name))
    found = list[Asked]()
    for domain, known in by_domain.items():
        most = min(count, len(known))
        some = [known[i * len(known) // most] for i in range(most)]
        for i, (word, name) in enumerate(some):
            alone = not word.lower().endswith(f" {domain}")
            thing = things[i * max(1, len(things) // count) % len(things)] if things else ""
            said = OTHER_PHRASING.format(word) if alone else _placed(thing, word, domain)
            case = replace(default, prompt=said, seed=default.seed + len(found))
            found.append(Asked(case, domain, name))
    return found


def _placed(thing: str, word: str, domain: str) -> str:
    """A style or a background, said of a thing."""
    return f"a {thing} on a {word}" if domain == "background" else said_of(thing, word)
