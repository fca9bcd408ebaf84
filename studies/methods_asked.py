"""What every method is asked in `studies.methods`: what goes, and which pictures are then drawn.

Nothing erased here is what settings were chosen on (dagger, dog, castle, hamburger, violin, beer
mug; firefox, noto, fluent): those are neighbours that must stay. No fit says a thing as the
paraphrases do, and none is told of a synonym.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recipes.emoji.world import NAMES, STYLES, THINGS

TUNED_ON = ("dog", "castle", "dagger", "hamburger", "violin", "beer mug")
TUNED_STYLES = ("firefox", "noto", "fluent")
OTHERS = (
    "elephant", "banana", "bicycle", "skull", "rose", "sun", "penguin", "mushroom", "hammer",
    "tent", "umbrella", "coffee", "turtle", "grapes", "sailboat", "key", "cactus", "rainbow",
    "octopus", "birthday cake", "tractor", "house", "butterfly", "lollipop",
)  # fmt: skip
"""Things that nothing erased here is."""
PLAIN = "a {}"
PARAPHRASES = (
    "a lovely sketch of the {}",
    "my {} on a purple background",
    "{}, seen from nearby",
    "what a beautiful {}!",
    "clip art: one single {}",
    "A {} in the middle of the picture",
    "behold the {}",
    "draw me a {} please",
)
STYLED = "a {} in {} style"
STYLE_PARAPHRASES = (
    "{1} style, a {0}",
    "one {0} as drawn by {1}",
    "the {0}, {1} style please",
    "{1} {0}",
)
AKA = {t.name: t.aka for t in THINGS}
BASE = ("base", "another seed")
"""The cell that gives the measure: the base model's other pictures of the same prompts."""
FIRST = 1000
"""The first seed of pictures."""
SEEDS = 100
"""From one sitting's pictures to the next one's."""

OBJECTS = {
    "cat": ("dog", "tiger"),
    "car": ("truck", "bus"),
    "guitar": ("violin", "trumpet"),
    "pizza": ("hamburger", "bread"),
    "wine glass": ("cocktail glass", "beer mug"),
    "airplane": ("helicopter", "rocket"),
}
"""Each with its near neighbours."""
SOME_STYLES = {"twitter": ("emojitwo", "flat"), "blob": ("noto", "emojitwo")}
WEAPONS = ("pistol", "bomb", "axe", "crossed swords", "bow and arrow")
TEN = (*OBJECTS, "church", "axe", "rocket", "crown")
_REST = [n for n in NAMES if n not in (*OTHERS, *TUNED_ON, *TEN, *WEAPONS)]
FIFTY = (*dict.fromkeys((*TEN, *WEAPONS)), *(_REST[i * len(_REST) // 36] for i in range(36)))
CLAIM_MANY = ("uce", "rece", "speed", "itd")
"""Methods whose papers erase tens of concepts at once."""


Said = tuple[str, str]
"""A prompt, and what its picture should show."""


class Picture(NamedTuple):
    """One that is asked for, and what it should show."""

    prompt: str
    seed: int
    name: str
    group: str = "concept"


@dataclass(frozen=True)
class Target:
    """What is erased by one fit."""

    name: str
    kind: str
    """Targets of one kind are counted together."""
    gone: tuple[str, ...]
    near: tuple[str, ...]
    """What is most like it and must stay."""
    methods: tuple[str, ...] = ()
    """The methods that are asked for it; none: all."""

    @property
    def group(self) -> str:
        """In which of the judge's groups it is looked for."""
        return "style" if self.kind == "styles" else "concept"

    @property
    def phrases(self) -> tuple[str, ...]:
        """What a fit is told."""
        return tuple(f"{n} style" for n in self.gone) if self.group == "style" else self.gone

    def asks(self, method: str) -> bool:
        """Whether this method is asked for it."""
        return not self.methods or method in self.methods


def _objects(*names: str) -> list[Target]:
    return [Target(n, "objects", (n,), OBJECTS[n]) for n in names]


def _styles(name: str) -> Target:
    return Target(f"{name} style", "styles", (name,), SOME_STYLES[name])


TARGETS = (
    *_objects("cat", "car"),
    _styles("twitter"),
    Target("five weapons", "five weapons", WEAPONS, ("dagger", "scissors")),
    Target("ten things", "ten things", TEN, TUNED_ON, CLAIM_MANY),
    Target("fifty things", "fifty things", FIFTY, TUNED_ON, CLAIM_MANY),
    *_objects("guitar", "pizza"),
    _styles("blob"),
    *_objects("wine glass", "airplane"),
)
"""In the order in which they are measured."""


def pictures(target: Target, count: int, others: int, sitting: int) -> dict[str, list[Picture]]:
    """Part -> its pictures, each with a seed of its own; a style has no synonyms.

    `count`: of each part, or one for each thing erased if those are more; `others`: other things.
    """
    many = max(count, len(target.gone))
    rest = [s for s in STYLES if s not in (*target.gone, *target.near)]
    said = _styled(target) if target.group == "style" else _named(target, many)
    group = target.group
    return {
        **{part: _drawn(some, many, group, sitting) for part, some in said.items()},
        "near": _drawn(_near(target), max(count, len(target.near)), group, sitting),
        "things": _drawn([(PLAIN.format(t), t) for t in OTHERS], others, "concept", sitting),
        "styles": _drawn(
            [(STYLED.format(OTHERS[3 * i], s), s) for i, s in enumerate(rest)],
            len(rest),
            "style",
            sitting,
        ),
    }


def _drawn(said: Sequence[Said], most: int, group: str, sitting: int) -> list[Picture]:
    """In turn, as many as are asked for."""
    first = FIRST + SEEDS * sitting
    return [
        Picture(prompt, first + i, name, group)
        for i in range(most)
        for prompt, name in [said[i % len(said)]]
    ]


def _named(target: Target, many: int) -> dict[str, list[Said]]:
    """Things, as they are called, by other words, and in other phrases."""
    gone = target.gone
    synonyms = [(PLAIN.format(AKA[n][k]), n) for k in range(3) for n in gone if k < len(AKA[n])]
    turns = [(PARAPHRASES[i % len(PARAPHRASES)], gone[i % len(gone)]) for i in range(many)]
    return {
        "plain": [(PLAIN.format(n), n) for n in gone],
        "synonyms": synonyms,
        "paraphrases": [(form.format(n), n) for form, n in turns],
    }


def _styled(target: Target) -> dict[str, list[Said]]:
    """A style, said of things in the usual way and in others."""
    [style] = target.gone
    return {
        "plain": [(STYLED.format(t, style), style) for t in OTHERS[::3]],
        "paraphrases": [
            (STYLE_PARAPHRASES[i % len(STYLE_PARAPHRASES)].format(t, style), style)
            for i, t in enumerate(OTHERS[1::3])
        ],
    }


def _near(target: Target) -> list[Said]:
    """What is most like it."""
    if target.group == "style":
        return [(STYLED.format(t, s), s) for t in OTHERS[2::6] for s in target.near]
    return [(PLAIN.format(n), n) for n in target.near]
