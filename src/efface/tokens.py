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
    """Pair the rows of each source prompt with those of its target prompt, part by part.

    Positions that the denoiser does not attend to are left out; a target that ends earlier lends
    its last attended row.
    """
    stops = (*source.starts[1:], source.states.shape[1])
    rows, goals = [], []
    for one, other, *spans in zip(
        source.states,
        target.states,
        *(x.tolist() for x in (source.last, source.ends, target.last, target.ends)),
        strict=True,
    ):
        for start, stop, i, end, j, goal_end in zip(source.starts, stops, *spans, strict=True):
            first, second = (start, start) if policy == "all" else (i, j)
            count = 1 if policy == "last" else min(end - first, stop - max(first, second))
            wanted = torch.arange(second, second + count).clamp(max=goal_end - 1)
            rows.append(one[first : first + count])
            goals.append(other[wanted])
    return Pairs(torch.cat(rows), torch.cat(goals))


def each(encoded: Encoded) -> Iterator[Encoded]:
    """Prompt by prompt."""
    for i in range(len(encoded.states)):
        states, last, ends, spoken = (x[i : i + 1] for x in encoded[:4])
        yield Encoded(states, last, ends, spoken, encoded.starts)


def together(prompts: Sequence[Encoded]) -> Encoded:
    """Prompts of one stream as one."""
    columns = zip(*(p[:4] for p in prompts), strict=True)
    states, last, ends, spoken = (torch.cat(column) for column in columns)
    return Encoded(states, last, ends, spoken, prompts[0].starts)


def joined(blocks: Sequence[Pairs]) -> Pairs:
    """The rows of several phrases as one set."""
    return Pairs(torch.cat([b.rows for b in blocks]), torch.cat([b.goals for b in blocks]))


def kept(encoded: Encoded, policy: RowPolicy) -> Float[Tensor, "n width"]:
    """Rows to preserve: the last words' alone under `last`, else all that are attended to."""
    if policy == "last":
        return torch.cat([states[last] for states, last in zip(*encoded[:2], strict=True)])
    rows = [
        states[start:end]
        for states, ends in zip(encoded.states, encoded.ends.tolist(), strict=True)
        for start, end in zip(encoded.starts, ends, strict=True)
    ]
    return torch.cat(rows)


def check_spoken(encoded: Encoded, prompts: tuple[str, ...]) -> None:
    """Refuse phrases to erase that hold no token at all."""
    for prompt, spoken in zip(prompts, encoded.spoken.tolist(), strict=True):
        if not spoken:
            raise EffaceError(f"{prompt!r} tokenizes to nothing: name the concept in words")
