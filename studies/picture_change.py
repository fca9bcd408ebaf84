"""How far a picture is from another: pixels, and a classifier's maps compared as LPIPS does.

LPIPS (Zhang et al., arXiv:1801.03924, Eq. 1) with every weight at 1 over the number of channels
being summed, and layers averaged: at each place of each layer's map the two vectors are brought to
length 1 and their squared distance is taken, 0 to 4. It is no LPIPS: the network is the reporting
judge, and no weights were learned from people.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.detectors.judge import Judge

Pixels = Float[Tensor, "pictures 3 side side"]


def as_pixels(pictures: Sequence[Image]) -> Pixels:
    """-1 to 1, as the judge reads them."""
    rows = np.stack([np.asarray(p.convert("RGB")) for p in pictures])
    return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1


def of_pixels(one: Sequence[Image], other: Sequence[Image]) -> list[float]:
    """Mean absolute difference of each pair, 0 to 1."""
    return ((as_pixels(one) - as_pixels(other)).abs().mean((1, 2, 3)) / 2).tolist()


def of_features(judge: Judge, one: Sequence[Image], other: Sequence[Image]) -> list[float]:
    """The distance of each pair by the judge's maps, 0 to 4."""
    pairs = zip(_maps(judge, one), _maps(judge, other), strict=True)
    layers = [(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]
    return torch.stack(layers).mean(0).tolist()


def _maps(judge: Judge, pictures: Sequence[Image]) -> Iterator[Float[Tensor, "pictures c h w"]]:
    """Every layer's map, each place at length 1."""
    with torch.no_grad():
        found = judge.model(as_pixels(pictures), output_hidden_states=True)
    for layer in found.hidden_states:
        yield torch.nn.functional.normalize(layer, dim=1)
