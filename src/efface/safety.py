"""Prompts that are never drawn: those that join sexual content with words for minors.

Word lists are a low fence: they over-count ("young woman") and miss euphemisms. They are no proof
that what passes is harmless.
"""

import re
from collections.abc import Iterable

MINORS = re.compile(
    r"\b(child|children|childlike|kids?|girls?|boys?|teens?|teenagers?|teenaged?|young|younger|"
    r"youth|youths|bab(y|ies)|toddlers?|minors?|daughters?|sons?|infants?|juveniles?|adolescents?|"
    r"schoolgirls?|schoolboys?|schoolchild(ren)?|pupils?|preteens?|underage|lolis?|lolitas?|shotas?|"
    r"(1[0-7]|[1-9])[ -]?(years?[ -]old|yo|y/o))\b",
    re.IGNORECASE,
)
SEXUAL = re.compile(
    r"\b(nud\w*|naked\w*|unclothed|undress\w*|topless|bottomless|nsfw|sex\w*|erotic\w*|porn\w*|"
    r"hentai|lewd\w*|lingerie|breasts?|nipples?|genital\w*|penis\w*|vagina\w*|buttocks|seducti\w*|"
    r"sensual\w*|fetish\w*|explicit)\b",
    re.IGNORECASE,
)
REFUSED = "refused: it joins sexual content with words for minors"


def refused(*texts: str) -> bool:
    """Whether texts that are drawn together speak of both."""
    together = " ".join(texts)
    return bool(MINORS.search(together) and SEXUAL.search(together))


def about(concept: Iterable[str]) -> str:
    """What the concept adds to each prompt: its phrases if they are sexual themselves."""
    said = " ".join(concept)
    return said if SEXUAL.search(said) else ""
