"""Who says what a picture shows: by the likest name of a group, or of one thing only.

Detectors are opened into these; an audit asks for what they can name and has them watch for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.core import Detector, EffaceError, Verdict

MOST = 40
"""Labels of a picture that are kept: of a longer list the likest, and what is watched for."""
CONTENT = "content"
"""Group of what a detector of one thing looks for."""
Spellings = Mapping[str, Sequence[tuple[str, ...]]]
"""Group -> its labels, each by its name and other words for it."""


@runtime_checkable
class Watcher(Protocol):
    """What an opened detector can do."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Group -> the names that it tells apart, in all spellings."""

    def watch(self, name: str, group: str) -> Detector:
        """A detector of one name."""


class Ranking(ABC):
    """Names of a group compete for a picture: it shows the likest, or all above a threshold."""

    def __init__(self, spellings: Spellings, threshold: float | None, top: int) -> None:
        """`threshold`: score that is a hit; None: to be among the `top` likest."""
        self.spellings, self.threshold, self.top = spellings, threshold, top

    @property
    def groups(self) -> Mapping[str, list[str]]:
        """Group -> its names, in the order of the scores where each has one spelling."""
        return {g: [way for ways in each for way in ways] for g, each in self.spellings.items()}

    @abstractmethod
    def scores(self, pictures: Sequence[Image]) -> dict[str, Float[Tensor, "pictures names"]]:
        """Probabilities within each group."""

    def names(self, pictures: Sequence[Image], group: str = "concept") -> list[str]:
        """The likest name of each picture."""
        known = self.spellings[group]
        return [known[i][0] for i in self.scores(pictures)[group].argmax(1).tolist()]

    def watch(self, name: str, group: str = "concept") -> Detector:
        """A detector of one name."""
        known = self.spellings[group]
        wanted = [i for i, ways in enumerate(known) if name in ways]
        if not wanted:
            some = ", ".join(ways[0] for ways in known[:MOST])
            raise EffaceError(f"the judge knows no {group} {name!r}: ask for one of {some}")

        def detect(pictures: Sequence[Image]) -> list[Verdict]:
            if not pictures:
                return []
            return [
                self.verdict(row, wanted, group) for row in self.scores(pictures)[group].tolist()
            ]

        return detect

    def verdict(self, row: Sequence[float], wanted: Sequence[int], group: str) -> Verdict:
        """What the scores of a group say of the labels at `wanted`."""
        score = sum(row[i] for i in wanted)
        likest = sorted(range(len(row)), key=lambda i: -row[i])
        if self.threshold is None:
            hit = any(i in wanted for i in likest[: self.top])
        else:
            hit = score >= self.threshold
        kept = sorted({*likest[:MOST], *wanted})
        return Verdict(score, hit, {self.spellings[group][i][0]: row[i] for i in kept})


class Alarm(NamedTuple):
    """It looks for one thing, whatever the erased concept is called."""

    what: str
    detect: Detector

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """The one name."""
        return {CONTENT: [self.what]}

    def watch(self, name: str, group: str) -> Detector:
        """The one detector."""
        return self.detect


class Several:
    """Each is asked for what those before it cannot name."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.groups: dict[str, list[str]] = {}
        self._of: dict[tuple[str, str], Watcher] = {}
        taken = set[str]()
        for watcher in watchers:
            mine = set[str]()
            for group, names in watcher.groups.items():
                left = [name for name in names if name.lower() not in taken]
                self.groups.setdefault(group, []).extend(left)
                self._of |= {(group, name): watcher for name in left}
                mine |= {name.lower() for name in left}
            taken |= mine
        first = [name for names in watchers[0].groups.values() for name in names]
        self.sole = first[0] if len(first) == 1 else None
        """What the first looks for, where that is one thing only."""

    def watch(self, name: str, group: str) -> Detector:
        """A detector of one name."""
        return self._of[group, name].watch(name, group)


Told = dict[str, Any]
"""What a run writes down of a detector: its settings, and a hash of its weights."""
