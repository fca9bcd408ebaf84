"""Which token rows of a prompt speak of the concept, and which target row each is sent to.

Row policies, by who uses them: `last` is the last word alone (UCE's current code), `last_to_end`
the last word and everything after it, end token and padding included, aligned with the target by
distance from its last word (UCE's paper code), `all` every position to the same position (RECE).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.core import EffaceError, Encoded

RowPolicy = Literal["last", "last_to_end", "all"]


class Pairs(NamedTuple):
    """Rows to erase and the row each becomes."""

    rows: Float[Tensor, "n width"]
    goals: Float[Tensor, "n width"]


def aligned(source: Encoded, target: Encoded, policy: RowPolicy) -> Pairs:
    """Pair the rows of each source prompt with those of its target prompt."""
    rows, goals = [], []
    for one, other, i, j in zip(
        source.states, target.states, source.last.tolist(), target.last.tolist(), strict=True
    ):
        if policy == "all":
            first, second, count = 0, 0, len(one)
        else:
            first, second = i, j
            count = 1 if policy == "last" else len(one) - max(i, j)
        rows.append(one[first : first + count])
        goals.append(other[second : second + count])
    return Pairs(torch.cat(rows), torch.cat(goals))


def each(encoded: Encoded) -> Iterator[Encoded]:
    """Prompt by prompt."""
    for states, last in zip(encoded.states.split(1), encoded.last.split(1), strict=True):
        yield Encoded(states, last)


def joined(blocks: Sequence[Pairs]) -> Pairs:
    """The rows of several phrases as one set."""
    return Pairs(torch.cat([b.rows for b in blocks]), torch.cat([b.goals for b in blocks]))


def kept(encoded: Encoded, policy: RowPolicy) -> Float[Tensor, "n width"]:
    """Rows to preserve: the last word's alone under `last`, else every position."""
    if policy == "last":
        return encoded.states[torch.arange(len(encoded.last)), encoded.last]
    return encoded.states.flatten(0, 1)


def check_spoken(encoded: Encoded, prompts: tuple[str, ...]) -> None:
    """Refuse phrases to erase that hold no token at all."""
    for prompt, last in zip(prompts, encoded.last.tolist(), strict=True):
        if last == 0:
            raise EffaceError(f"{prompt!r} tokenizes to nothing: name the concept in words")
