"""The rival: UCE's and RECE's released loops, written anew from what they compute and repeat.

As in UCE's paper code (commit f7222e6) the text encoder runs inside the loop over matrices, every
matrix is given the goals and one of them is used, outer products are formed row by row and summed,
and the same system is inverted once a matrix, in the type of the weights. RECE (commit 403a67f)
derives its embedding with two sums over all matrices and then erases in the same loop.
`tests/test_rival.py` holds both to numbers that the authors' own functions gave.

Kinder than theirs: no autograd graph, no diagnostic pictures, no second pipeline in memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from efface.erasers.rece import RECE

Weights = Mapping[str, Float[Tensor, "out width"]]


class Text(Protocol):
    """What the loops ask of a text encoder."""

    def rows(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """Run it."""

    def last(self, prompt: str) -> int:
        """Position of the last word."""


class Block(NamedTuple):
    """Rows of one phrase, those they become, and their weight."""

    rows: Float[Tensor, "n width"]
    goals: Float[Tensor, "n width"]
    weight: float


def uce(
    base: Weights,
    text: Text,
    pairs: Sequence[tuple[str, str]],
    keep: Sequence[str],
    *,
    erase_weight: float,
    keep_weight: float,
    ridge: float,
) -> dict[str, Tensor]:
    """UCE's edit of every matrix; `keep` names the empty prompt too."""

    def said() -> Iterable[Block]:
        for phrase, goal in pairs:
            old, new = text.rows([phrase, goal])
            i, j = text.last(phrase), text.last(goal)
            count = len(old) - max(i, j)
            yield Block(old[i : i + count], new[j : j + count], erase_weight)
        yield from _kept(text, keep, keep_weight)

    return _edited(base, said, ridge)


def rece_epoch(
    base: Weights,
    edited: Weights,
    text: Text,
    pairs: Sequence[tuple[str, str]],
    keep: Sequence[str],
    method: RECE,
) -> dict[str, Tensor]:
    """Derive the embeddings that bring the concepts back, then erase those.

    Of `method` its mu, keep_weight and ridge, which must be told.
    """
    assert method.ridge is not None
    derived = []
    for phrase, goal in pairs:
        old, new = text.rows([phrase, goal])
        derived.append(Block(_derived(base, edited, old, method.mu), new, 1.0))

    def said() -> Iterable[Block]:
        yield from derived
        yield from _kept(text, keep, method.keep_weight)

    return _edited(edited, said, method.ridge)


def _kept(text: Text, keep: Sequence[str], weight: float) -> Iterable[Block]:
    for phrase in keep:
        old, new = text.rows([phrase, phrase])
        yield Block(old, new, weight)


def _derived(
    base: Weights, edited: Weights, rows: Float[Tensor, "n width"], mu: float
) -> Float[Tensor, "n width"]:
    """(μI + Σ WᵀW)⁻¹ (Σ WᵀW₀) c of every row."""
    system = mu * torch.eye(rows.shape[1], dtype=rows.dtype)
    cross = torch.zeros_like(system)
    for name, old in base.items():
        weight = edited[name]
        system = system + weight.T @ weight
        cross = cross + weight.T @ old
    return rows @ (torch.linalg.inv(system) @ cross).T


def _edited(
    weights: Weights, said: Callable[[], Iterable[Block]], ridge: float
) -> dict[str, Tensor]:
    """Every matrix in turn; `said` runs the text encoder, again for each."""
    edited = {}
    for name, weight in weights.items():
        left = ridge * weight
        right = ridge * torch.eye(weight.shape[1], dtype=weight.dtype)
        for rows, goals, share in said():
            values = {other: goals @ matrix.T for other, matrix in weights.items()}
            value, context = values[name][:, :, None], rows[:, :, None]
            left = left + share * (value @ context.mT).sum(0)
            right = right + share * (context @ context.mT).sum(0)
        edited[name] = left @ torch.linalg.inv(right)
    return edited
