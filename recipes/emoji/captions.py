"""Captions of the emoji world: many templates, synonyms, style and background in any order."""

import re

import numpy as np

from recipes.emoji.data import member
from recipes.emoji.world import BACKGROUNDS, STYLES, THINGS

NOUNS = (
    "emoji",
    "picture",
    "image",
    "drawing",
    "icon",
    "photo",
    "illustration",
    "sketch",
    "clip art",
)
LOOKS = (
    "cute",
    "small",
    "big",
    "nice",
    "simple",
    "beautiful",
    "colorful",
    "single",
    "lovely",
    "detailed",
)
SYNONYMS = {t.name: t.aka for t in THINGS}
OPENINGS = ("", "", "a", "the", "one", "my", "this")


def plain(text: str) -> str:
    """Lower-case words only."""
    return re.sub(r"[^a-z ]+", " ", text.lower()).strip()


def article(word: str) -> str:
    """The indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def caption(word: str, style: str | None, background: str | None, rng: np.random.Generator) -> str:
    """One caption of `word`, saying style and background where given."""
    thing = f"{rng.choice(LOOKS)} {word}" if rng.random() < 0.15 else word
    opening = rng.choice(OPENINGS)
    thing = f"{article(thing) if opening == 'a' else opening} {thing}".strip()
    if style and rng.random() < 0.35:
        thing = f"{article(style)} {style} {thing.split(' ', 1)[-1] if opening else thing}"
        style = None
    if rng.random() < 0.4:
        noun = rng.choice(NOUNS)
        lead = f"{style} " if style and rng.random() < 0.3 else ""
        style = None if lead else style
        thing = f"{article(lead + noun)} {lead}{noun} of {thing}"
    parts = [thing]
    if style:
        form = rng.choice(["in {} style", "in the {} style", "by {}", "{} style", "as drawn by {}"])
        parts.append(form.format(style))
    if background:
        form = rng.choice(["on a {} background", "on {}", "{} background", "with a {} background"])
        parts.append(form.format(background))
    if len(parts) > 1 and rng.random() < 0.2:
        parts = parts[1:] + parts[:1]
    return (", " if rng.random() < 0.3 else " ").join(parts)


def word_for(name: str, rng: np.random.Generator) -> str:
    """The concept's own name, or in four captions of ten one of its synonyms."""
    others = SYNONYMS[name]
    return str(rng.choice(others)) if others and rng.random() < 0.4 else name


def vocabulary_text() -> list[str]:
    """English for the tokenizer: every dictionary label and tag, and captions of everything."""
    rows = member("emojibase-data", "en/data.json")
    rng = np.random.default_rng(0)
    lines = [plain(" ".join([r["label"], *r.get("tags", [])])) for r in rows]
    for t in THINGS:
        for word in (t.name, *t.aka):
            grounds = rng.choice(list(BACKGROUNDS), len(STYLES) + 1)
            lines += [
                caption(word, style, str(ground), rng)
                for style, ground in zip((*STYLES, None), grounds, strict=True)
            ]
    return lines
