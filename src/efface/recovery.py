"""What restores rows through an erased model's own matrices: the quadratic and its minimum.

Of row c and candidate e: q(e) = Σ|W′e − W c|² = eᵀG′e − 2 cᵀX e + cᵀG c, over all matrices that
read the stream, erased W′ and base W, with G′ = Σ W′ᵀW′, X = Σ WᵀW′.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.backbone import Backbone
from efface.linalg import Spectrum, sphere_minimum


class Quadratic(NamedTuple):
    """What q needs of two models, float64 on the CPU."""

    gram: Float[Tensor, "width width"]
    """G′."""
    cross: Float[Tensor, "width width"]
    """X."""
    spectra: tuple[Spectrum, ...]
    """Of AᵀG′A, for each ellipsoid of the erased model."""


class _Pair(NamedTuple):
    erased: Backbone
    base: Backbone


def quadratic(erased: Backbone, base: Backbone) -> Quadratic:
    """Formed once a pair of models."""
    return _formed(_Pair(erased, base))


@lru_cache(maxsize=2)
def _formed(pair: _Pair) -> Quadratic:
    cross: Tensor | None = None
    for (_, new), (_, old) in zip(pair.erased.readers(), pair.base.readers(), strict=True):
        step = old.detach().cpu().double().T @ new.detach().cpu().double()
        cross = step if cross is None else cross + step
    assert cross is not None, "a model without readers of text"
    gram = pair.erased.gram()
    surfaces = pair.erased.ellipsoids()
    return Quadratic(gram, cross, tuple(Spectrum.of(s.pull(gram)) for s in surfaces))


def recovered(
    erased: Backbone, base: Backbone, rows: Float[Tensor, "n width"]
) -> Float[Tensor, "n width"]:
    """The best restorer of each row on the erased model's ellipsoids."""
    gram, cross, spectra = quadratic(erased, base)
    wanted = rows.double() @ cross
    left = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    found = torch.zeros_like(wanted)
    for (axes, shift, radius2, solid), hessian in zip(erased.ellipsoids(), spectra, strict=True):
        linear = (wanted - shift.double() @ gram) @ axes.double()
        inner = sphere_minimum(hessian, linear, radius2, solid=solid)
        made = inner @ axes.double().T + shift.double()
        off = ((made @ gram) * made).sum(1) - 2 * (made * wanted).sum(1)
        found = torch.where((off < left)[:, None], made, found)
        left = torch.minimum(left, off)
    return found.to(rows.dtype)


def distance(
    erased: Backbone, base: Backbone, rows: Float[Tensor, "n width"]
) -> Callable[[Float[Tensor, "m n width"]], Float[Tensor, "m"]]:
    """Σ q over rows of sequences, up to a constant, in float32 on their device."""
    gram, cross, _ = quadratic(erased, base)
    wanted = rows.double() @ cross

    def measure(states: Float[Tensor, "m n width"]) -> Float[Tensor, "m"]:
        g, w = (x.to(states.device, torch.float32) for x in (gram, wanted))
        return ((states @ g - 2 * w) * states).sum((1, 2))

    return measure
