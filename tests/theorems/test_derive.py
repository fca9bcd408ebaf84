"""Theorems of RECE's derived embedding, in all its variants."""

from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efface.linalg import LowRank, derive_regzero, derive_standardreg, derive_surrogatereg
from tests.theorems.test_linalg import far, fast, normal, shapes, solve


class Layers(NamedTuple):
    """A model of three layers, the map that edits them, and what RECE's derivation starts from."""

    base: list[Tensor]
    edit: LowRank
    rows: Tensor
    target: Tensor

    @property
    def gram(self) -> Tensor:
        return torch.stack([w.T @ w for w in self.base]).sum(0)


def layers(seed: int, width: int, n: int) -> Layers:
    c, v, t, *base = normal(seed, *[(n, width)] * 3, (9, width), (5, width), (width, width))
    return Layers(base, solve(c, v), c, t)


Option = Literal["regzero", "standardreg", "1st", "2nd", "both"]
OPTIONS: tuple[Option, ...] = ("regzero", "standardreg", "1st", "2nd", "both")


def derive(option: Option, model: Layers, ridge: float) -> Tensor:
    if option == "regzero":
        return derive_regzero(model.edit, model.gram, model.rows, ridge)
    if option == "standardreg":
        return derive_standardreg(model.edit, model.gram, model.rows, model.target, ridge)
    return derive_surrogatereg(model.edit, model.gram, model.rows, ridge, option)


def literal_loss(option: Option, model: Layers, ridge: float, x: Tensor) -> Tensor:
    edited = [w @ model.edit.dense() for w in model.base]
    c = model.rows
    penalty: dict[Option, Any] = {
        "regzero": lambda: x.square().sum(),
        "standardreg": lambda: (x - model.target).square().sum(),
        "1st": lambda: sum(((x - c) @ w.T).square().sum() for w in edited),
        "2nd": lambda: (x - c).square().sum(),
    }
    names: tuple[Option, ...] = ("1st", "2nd") if option == "both" else (option,)
    pairs = zip(edited, model.base, strict=True)
    fit = torch.stack([(x @ w.T - c @ w0.T).square().sum() for w, w0 in pairs]).sum()
    return fit + ridge * torch.stack([penalty[name]() for name in names]).sum()


@pytest.mark.parametrize("option", OPTIONS)
@given(seed=shapes["seed"], width=shapes["width"], n=shapes["n"], ridge=st.floats(0.01, 10))
@fast
def test_derived_embedding_is_the_minimiser(
    option: Option, seed: int, width: int, n: int, ridge: float
) -> None:
    model = layers(seed, width, n)
    slopes: list[Tensor] = []
    for start in (derive(option, model, ridge), model.rows + model.target):
        x = start.clone().requires_grad_()
        slopes += torch.autograd.grad(literal_loss(option, model, ridge, x), x)
    assert slopes[0].norm() < 1e-9 * slopes[1].norm()


@given(seed=shapes["seed"], width=shapes["width"], n=shapes["n"])
@fast
def test_derived_embedding_equals_the_layer_by_layer_one(seed: int, width: int, n: int) -> None:
    model, ridge = layers(seed, width, n), 0.1
    left, right = ridge * torch.eye(width, dtype=torch.float64), torch.zeros(width, n)
    for w0 in model.base:
        w = w0 @ model.edit.dense()
        left, right = left + w.T @ w, right + w.T @ w0 @ model.rows.T
    assert far(derive("regzero", model, ridge), torch.linalg.solve(left, right).T) < 1e-9


def test_derived_embedding_without_a_regulariser_inverts_the_map() -> None:
    model = layers(0, 12, 6)
    inverse = torch.linalg.solve(model.edit.dense(), model.rows.T).T
    for option in OPTIONS:
        assert far(derive(option, model, 1e-10), inverse) < 1e-6
        assert far(derive(option, model, 1.0), inverse) > 0.1


def test_a_gram_that_does_not_determine_the_embedding_is_refused() -> None:
    (c,) = normal(0, (2, 4))
    blind = torch.zeros(4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        derive_surrogatereg(LowRank.identity(4), blind, c, 0.1, "1st")
