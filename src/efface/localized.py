"""Where in a picture a concept is, by the model's own attention: the mask Receler learns under.

Receler, arXiv 2311.17717. Maps of the concept's words at the layers of one
resolution are averaged; where the average is at least a share of the way from its least to its
largest value, there the concept is.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from efface.core import Encoded

PART = 1 / 4
"""Side of the maps that are averaged, of the latent's: 16 of 64 in the paper; or the nearest."""
ELSE = "?"
"""A prompt that begins as no concept does."""
Masks = Mapping[int, Float[Tensor, "batch _"]]
"""By the number of places a layer has, 1 where the concept is."""


def masks(
    maps: Mapping[str, Float[Tensor, "batch _"]], shape: tuple[int, int], threshold: float
) -> Masks:
    """The concept's mask at every resolution of `maps`; `shape`: height and width of a latent.

    A map that is the same everywhere says nothing, and all is taken for the concept.
    """
    sides = {tokens: side(tokens, shape) for tokens in {m.shape[1] for m in maps.values()}}
    near = min(sides, key=lambda tokens: (abs(sides[tokens][0] / shape[0] - PART), -tokens))
    mean = torch.stack([m for m in maps.values() if m.shape[1] == near]).mean(0)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    inside = (mean - low >= threshold * (high - low)).float().view(-1, 1, *sides[near])
    return {n: interpolate(inside, size).flatten(1) for n, size in sides.items()}


def side(tokens: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer's grid."""
    high = round(shape[0] * math.sqrt(tokens / (shape[0] * shape[1])))
    return high, tokens // high


def outside(added: Mapping[str, Float[Tensor, "batch _ _"]], inside: Masks) -> Float[Tensor, ""]:
    """Σ_p B_p mean(o²) / Σ_p B_p, B = 1 − M: what adapters add where the concept is not.

    Mean over layers and over the batch.
    """
    found = list[Tensor]()
    for rows in added.values():
        background = 1 - inside[rows.shape[1]]
        strength = (background * rows.square().mean(2)).sum(1)
        found.append(strength / (background.sum(1) + 1e-9))
    return torch.stack(found).mean()


def words_of(named: Encoded, other: Encoded) -> Bool[Tensor, "prompts tokens"]:
    """Positions of the words: up to the last, less those where `ELSE` has the same rows.

    So the start token of a causal text encoder is left out, and what is said ahead of a prompt.
    """
    places = torch.arange(named.states.shape[1])
    off = (named.states - other.states).norm(dim=2)
    spoken: Tensor = (off > 1e-3 * named.states.norm(dim=2)) & (places <= named.last[:, :1])
    return spoken
