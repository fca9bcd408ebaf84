"""Where an encoder's rows can lie, by how it ends: with a norm, a projection or neither.

Rows are e = A z + β with |z|² = d (see `efface.core.Ellipsoid`), whatever the prompt, to the norm's
ε. Where nothing bounds them, a ball around sampled rows stands in: an estimate, not a bound.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.core import Ellipsoid


def layer_norm(scale: Float[Tensor, "width"], shift: Float[Tensor, "width"]) -> Ellipsoid:
    """diag(γ) z + β with Σz = 0 and |z|² = d: an orthonormal basis of such z, by Householder."""
    scale, shift = scale.detach().double().cpu(), shift.detach().double().cpu()
    width = len(scale)
    normal = torch.full_like(scale, width**-0.5)
    normal[0] -= 1
    basis = torch.eye(width, dtype=torch.float64)
    basis -= 2 * torch.outer(normal, normal) / normal.square().sum()
    return Ellipsoid(scale[:, None] * basis[:, 1:], shift, float(width))


def rms_norm(scale: Float[Tensor, "width"]) -> Ellipsoid:
    """diag(γ) z with |z|² = d."""
    scale = scale.detach().double().cpu()
    return Ellipsoid(torch.diag(scale), torch.zeros_like(scale), float(len(scale)))


def projected(matrix: Float[Tensor, "out width"], inner: Ellipsoid) -> Ellipsoid:
    """P e for e on another ellipsoid."""
    matrix = matrix.detach().double().cpu()
    return inner._replace(axes=matrix @ inner.axes, shift=matrix @ inner.shift)


def ball(rows: Float[Tensor, "n inner"], width: int) -> Ellipsoid:
    """The ball around 0 that holds sampled rows, in the first columns of a wider stream."""
    axes = torch.eye(width, rows.shape[1], dtype=torch.float64)
    radius2 = rows.double().square().sum(1).max().item()
    return Ellipsoid(axes, torch.zeros(width, dtype=torch.float64), radius2, solid=True)


def side_by_side(one: Ellipsoid, other: Ellipsoid) -> Ellipsoid:
    """Rows of two encoders joined: |z|² of both together, which admits all that both apart do."""
    return Ellipsoid(
        torch.block_diag(one.axes, other.axes),
        torch.cat([one.shift, other.shift]),
        one.radius2 + other.radius2,
    )


def mean_square(surfaces: Sequence[Ellipsoid]) -> float:
    """Mean of |e|² over z spread evenly on the sphere: |A|² r² / free + |β|²; over all surfaces."""
    squares = [
        s.axes.double().square().sum().item() * s.radius2 / s.axes.shape[1]
        + s.shift.double().square().sum().item()
        for s in surfaces
    ]
    return sum(squares) / len(squares)
