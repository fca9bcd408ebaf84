"""The gate of Receler: a small network beside a layer, whose answer is added to the layer's own.

a becomes a + A(a) with A(a) = W↑ GELU(W↓ a + b↓) + b↑ (arXiv 2311.17717). At W↑ = 0
and b↑ = 0, where training begins, the layer is as it was, to the bit. The network knows neither
prompt nor time; it runs at every call.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu, linear

from efface.core import EffaceError

PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
"""W↓ [rank width], b↓ [rank], W↑ [width rank], b↑ [width]."""


def begun(width: int, rank: int, rng: Generator) -> dict[str, Tensor]:
    """An adapter that does nothing yet: W↓ and b↓ within ±1/√width, as layers are begun; W↑ = 0."""

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=rng) - 1) * width**-0.5

    weights = uniform(rank, width), uniform(rank), torch.zeros(width, rank), torch.zeros(width)
    return dict(zip(PARTS, weights, strict=True))


def answer(
    rows: Float[Tensor, "batch tokens width"], weights: Sequence[Tensor]
) -> Float[Tensor, "batch tokens width"]:
    """A(a), in the precision of the weights; they come in the order of `PARTS`."""
    down, below, up, above = weights
    return linear(gelu(linear(rows.to(down.dtype), down, below)), up, above)


class AdapterGate(nn.Module):
    """A network of `efface.gates`."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """What `build` has found to be in order."""
        super().__init__()
        for i, weight in enumerate(weights):
            self.register_buffer(str(i), weight.float())

    @classmethod
    def build(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "AdapterGate":
        """The network, or one sentence on what is not as it must be."""
        if settings:
            raise EffaceError(f"has a setting {min(settings)!r}, and an adapter has none")
        if {*tensors} != {*PARTS} or [tensors[n].ndim for n in PARTS] != [2, 1, 2, 1]:
            raise EffaceError(f"has not the matrices and vectors {', '.join(PARTS)} alone")
        down, below, up, above = weights = [tensors[name] for name in PARTS]
        rank, width = down.shape
        if (len(below), *up.shape, len(above)) != (rank, width, rank, width):
            raise EffaceError(f"has tensors that do not fit rank {rank} and width {width}")
        if not all(w.is_floating_point() for w in weights):
            raise EffaceError("has tensors that are no numbers")
        return cls(weights)

    def forward(
        self,
        out: Float[Tensor, "prompts tokens width"],
        holds: Bool[Tensor, "prompts tokens"] | None,
    ) -> Float[Tensor, "prompts tokens width"]:
        """The layer's output and the adapter's."""
        weights = list(self.buffers())
        if out.shape[2] != len(weights[-1]):
            raise EffaceError(f"the adapter reads rows of {len(weights[-1])}, not {out.shape[2]}")
        return out + answer(out, weights).to(out.dtype)
