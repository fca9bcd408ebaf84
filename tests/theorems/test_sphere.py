"""Theorems of a quadratic's minimum on a sphere."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from efface.linalg import Spectrum, sphere_minimum
from tests.theorems.test_linalg import fast, normal, shapes


def sphere_value(hessian: Tensor, linear: Tensor, y: Tensor) -> Tensor:
    return ((y @ hessian) * y).sum(-1) - 2 * (y * linear).sum(-1)


def search(hessian: Tensor, linear: Tensor, radius: float) -> Tensor:
    """The lowest value that projected gradient descent finds from 64 starts."""
    (y,) = normal(9, (64, len(hessian)))
    step = 1 / (2 * torch.linalg.matrix_norm(hessian, 2) + linear.norm() / radius)
    for _ in range(1000):
        y = radius * torch.nn.functional.normalize(y, dim=1)
        y = y - step * (y @ hessian - linear)
    y = radius * torch.nn.functional.normalize(y, dim=1)
    return sphere_value(hessian, linear, y).min()


HARD = {
    "b has nothing in the lowest eigenspace": [0.0, 0.1, 0.2, -0.1],
    "b is nil": [0.0] * 4,
    "b has a trace of it": [1e-12, 0.1, 0.2, -0.1],
    "less than round-off of it": [1e-30, 0.1, 0.2, -0.1],
    "nothing of it, but the rest is long enough": [0.0, 9.0, 2.0, -1.0],
    "easy": [1.0, 0.1, 0.2, -0.1],
}


@pytest.mark.parametrize("twofold", [False, True], ids=["simple", "twofold"])
@pytest.mark.parametrize("turned", [False, True], ids=["diagonal", "turned"])
@pytest.mark.parametrize("low", [-2.0, 0.0, 0.3])
@pytest.mark.parametrize("linear", HARD.values(), ids=HARD.keys())
def test_sphere_minimum_in_the_hard_case(
    linear: list[float], low: float, turned: bool, twofold: bool
) -> None:
    values = torch.tensor([low, low if twofold else low + 0.5, low + 1, low + 4]).double()
    frame = torch.linalg.qr(normal(1, (4, 4))[0])[0] if turned else torch.eye(4).double()
    hessian, b = frame * values @ frame.T, frame @ torch.tensor(linear).double()
    y = sphere_minimum(Spectrum.of(hessian), b[None], 2.25)[0]
    found = search(hessian, b, 1.5)
    assert abs(y.norm() - 1.5) < 1e-13
    assert abs(sphere_value(hessian, b, y) - found) < 1e-9
    assert sphere_value(hessian, b, -y) > found or not b.any()


@given(
    seed=shapes["seed"],
    width=st.integers(1, 8),
    n=st.integers(0, 4),
    radius2=st.floats(1e-3, 1e3),
    rank=st.integers(0, 8),
)
@example(seed=0, width=1, n=3, radius2=2.0, rank=1)
@example(seed=0, width=6, n=2, radius2=2.0, rank=0)
@fast
def test_sphere_minimum_meets_the_conditions_of_a_global_minimum(
    seed: int, width: int, n: int, radius2: float, rank: int
) -> None:
    """(H + lI) y = b, H + lI of no negative eigenvalue, |y|² as asked: sufficient."""
    half, linear, shift = normal(seed, (rank, width), (n, width), (1,))
    hessian = half.T @ half + shift * torch.eye(width)  # of any sign, often with a flat part
    scale = 1 + torch.linalg.matrix_norm(hessian, 2) + linear.norm() / radius2**0.5
    for b, y in zip(linear, sphere_minimum(Spectrum.of(hessian), linear, radius2), strict=True):
        multiplier = (y @ b - y @ hessian @ y) / radius2
        slack = torch.linalg.eigvalsh(hessian)[0] + multiplier
        assert abs(y.square().sum() - radius2) < 1e-12 * radius2
        assert (hessian @ y + multiplier * y - b).norm() < 1e-10 * scale * radius2**0.5
        assert slack > -1e-10 * scale


@given(seed=shapes["seed"], width=st.integers(2, 5))
@settings(max_examples=8, deadline=None)
def test_sphere_minimum_equals_a_search(seed: int, width: int) -> None:
    half, b = normal(seed, (width, width), (width,))
    hessian = half + half.T
    y = sphere_minimum(Spectrum.of(hessian), b[None], float(width))[0]
    found = search(hessian, b, width**0.5)
    assert sphere_value(hessian, b, y) <= found + 1e-10
    assert found - sphere_value(hessian, b, y) < 1e-5 * (1 + found.abs())


def test_a_sphere_without_radius_is_refused() -> None:
    with pytest.raises(ValueError, match="radius"):
        sphere_minimum(Spectrum.of(torch.eye(4)), torch.ones(1, 4), 0.0)
