"""Theorems of the certificate, of drift and of the recovery curve."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efface.certificate import Adversary, Drift, recovery_curve
from efface.core import Ellipsoid
from efface.ellipsoids import ball, layer_norm, projected, rms_norm
from efface.linalg import LowRank
from tests.theorems.test_linalg import far, fast, normal, random_map, solve

scenes = {
    "seed": st.integers(0, 2**31),
    "width": st.integers(3, 10),
    "n": st.integers(1, 6),
    "centred": st.booleans(),
}


class Norm(NamedTuple):
    """An encoder's last norm: a LayerNorm (centred) or an RMSNorm with a shift."""

    scale: Tensor
    shift: Tensor
    centred: bool

    @property
    def surface(self) -> tuple[Ellipsoid]:
        if self.centred:
            return (layer_norm(self.scale, self.shift),)
        return (rms_norm(self.scale)._replace(shift=self.shift),)


def encoder(seed: int, width: int, centred: bool) -> Norm:
    scale, shift = normal(seed, (width,), (width,))
    return Norm(scale.abs() + 0.2, shift, centred)


def on(norm: Norm, z: Tensor) -> Tensor:
    """What the encoder's norm makes of z."""
    if norm.centred:
        z = z - z.mean(1, keepdim=True)
    z = z * (z.shape[1] ** 0.5 / z.norm(dim=1, keepdim=True))
    return z * norm.scale + norm.shift


def distance(edit: LowRank, layers: list[Tensor], e: Tensor, c: Tensor) -> Tensor:
    """Σ|W T e − W c|², layer by layer."""
    moved = e @ edit.dense().T - c
    return torch.stack([(moved @ w.T).square().sum(-1) for w in layers]).sum(0)


def model(seed: int, width: int) -> tuple[list[Tensor], Tensor]:
    layers = normal(seed, (7, width), (width, width))
    return layers, torch.stack([w.T @ w for w in layers]).sum(0)


@given(**scenes)
@fast
def test_nothing_erased_is_fully_recoverable(seed: int, width: int, n: int, centred: bool) -> None:
    (_, gram), ellipsoid = model(seed, width), encoder(seed + 1, width, centred)
    c, v = (on(ellipsoid, z) for z in normal(seed + 2, (n, width), (n, width)))
    untouched = Adversary(LowRank.identity(width), gram, ellipsoid.surface).certificate(c, v)
    assert untouched.values.max() < 1e-12
    assert far(untouched.embeddings, c) < 1e-5
    erased = Adversary(solve(c, v), gram, ellipsoid.surface).certificate(c, v)
    assert erased.values.max() > 1e-5  # control: the same rows, edited


@given(**scenes)
@fast
def test_minimisers_lie_on_the_ellipsoid_and_attain_the_value(
    seed: int, width: int, n: int, centred: bool
) -> None:
    (layers, gram), ellipsoid = model(seed, width), encoder(seed + 1, width, centred)
    c, v = normal(seed + 2, (n, width), (n, width))
    edit = solve(c, v)
    found = Adversary(edit, gram, ellipsoid.surface).certificate(c, v)
    z = (found.embeddings - ellipsoid.shift) / ellipsoid.scale
    assert torch.allclose(z.square().sum(1), torch.tensor(float(width)).double(), rtol=1e-10)
    assert not centred or z.sum(1).abs().max() < 1e-10
    q = distance(edit, layers, found.embeddings, c) / distance(
        LowRank.identity(width), layers, v, c
    )
    assert torch.allclose(found.values, q, rtol=1e-8, atol=1e-12)
    assert found.rows.tolist() == list(range(n))
    assert found.min == found.values.min()
    assert found.mean == found.values.mean()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("width", [3, 8, 16])
def test_no_search_beats_the_certificate_and_the_best_one_meets_it(
    width: int, centred: bool
) -> None:
    (layers, gram), ellipsoid = model(0, width), encoder(1, width, centred)
    c, v = (on(ellipsoid, z) for z in normal(2, (4, width), (4, width)))
    edit = solve(c, v, ridge=0.1)
    found = Adversary(edit, gram, ellipsoid.surface).certificate(c, v)
    goal = distance(LowRank.identity(width), layers, v, c)

    z = normal(3, (30 * 4, width))[0].requires_grad_()
    again = c.repeat(30, 1)
    search = torch.optim.LBFGS([z], max_iter=500, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = distance(edit, layers, on(ellipsoid, z), again).sum()
        loss.backward()
        return loss

    search.step(closure)
    best = distance(edit, layers, on(ellipsoid, z.detach()), again).view(30, 4).amin(0) / goal
    assert (found.values <= best + 1e-12).all()
    assert torch.allclose(found.values, best, rtol=1e-8, atol=1e-10)


@given(**scenes, share=st.floats(0, 1))
@fast
def test_at_most_one_where_the_goal_is_held(
    seed: int, width: int, n: int, centred: bool, share: float
) -> None:
    """With T v = v and v on the ellipsoid, feeding v itself is as far off as v."""
    (_, gram), ellipsoid = model(seed, width), encoder(seed + 1, width, centred)
    c, v = (on(ellipsoid, z) for z in normal(seed + 2, (1, width), (1, width)))
    aside = c - (c @ v.T) / v.square().sum() * v
    edit = LowRank((v - c).T, aside.T / (aside @ c.T)).scale(share)
    assert far(edit.apply(v), v) < 1e-10
    value = Adversary(edit, gram, ellipsoid.surface).certificate(c, v).min
    assert value is not None
    assert 0 <= value <= 1 + 1e-9


def test_one_where_only_the_goal_is_left() -> None:
    """T = v vᵀ/|v|² on a sphere leaves multiples of v up to v, and c is beyond: the best is v."""
    v = torch.tensor([[2.0, 0.0, 0.0, 0.0]]).double()
    c = torch.tensor([[5.0, 1.0, 0.0, 2.0]]).double()
    collapse = LowRank(torch.eye(4).double()[:, 1:], -torch.eye(4).double()[:, 1:])
    sphere = (rms_norm(torch.ones(4)),)
    found = Adversary(collapse, torch.eye(4), sphere).certificate(c, v)
    assert found.min == pytest.approx(1.0, abs=1e-12)
    assert far(found.embeddings, v) < 1e-12
    nearer = torch.tensor([[1.0, 1.0, 0.0, 2.0]]).double()
    assert Adversary(collapse, torch.eye(4), sphere).certificate(nearer, v).min == pytest.approx(
        5 / 6
    )


@given(**scenes, factor=st.floats(1e-3, 1e3))
@fast
def test_the_unit_of_the_gram_does_not_matter(
    seed: int, width: int, n: int, centred: bool, factor: float
) -> None:
    (_, gram), ellipsoid = model(seed, width), encoder(seed + 1, width, centred)
    c, v, e = normal(seed + 2, (n, width), (n, width), (4, width))
    edit = solve(c, v)
    one, other = (
        Adversary(edit, g, ellipsoid.surface).certificate(c, v).values
        for g in (gram, factor * gram)
    )
    assert torch.allclose(one, other, rtol=1e-8, atol=1e-12)
    assert Drift(factor * gram, e).of(edit) == pytest.approx(Drift(gram, e).of(edit))


def test_rows_that_do_not_move_are_left_out() -> None:
    (_, gram), ellipsoid = model(0, 6), encoder(1, 6, centred=True)
    c, v = (on(ellipsoid, z) for z in normal(2, (5, 6), (5, 6)))
    v[0], v[3] = c[0], c[3] * (1 + 1e-7)  # the start token, exactly and to float32 round-off
    edit = solve(c, v)
    found = Adversary(edit, gram, ellipsoid.surface).certificate(c, v)
    assert found.rows.tolist() == [1, 2, 4]
    alone = Adversary(edit, gram, ellipsoid.surface).certificate(c[found.rows], v[found.rows])
    assert torch.allclose(found.values, alone.values, rtol=1e-10)
    none = Adversary(edit, gram, ellipsoid.surface).certificate(c[:1], c[:1])
    assert (none.min, none.mean, none.embeddings.shape) == (None, None, (0, 6))


def test_drift_is_the_share_of_what_the_layers_read_that_moved() -> None:
    (layers, gram), (e,) = model(0, 5), normal(1, (7, 5))
    edit, eye = random_map(2, 5, 3), torch.eye(5).double()
    assert Drift(gram, e).of(LowRank.identity(5)) == 0
    assert Drift(gram, e).of(LowRank(eye, 0.3 * eye)) == pytest.approx(0.09)  # T = 1.3 I
    moved = distance(edit, layers, e, e)
    whole = torch.stack([(e @ w.T).square().sum(1) for w in layers]).sum(0)
    assert Drift(gram, e).of(edit) == pytest.approx(float((moved / whole).mean()))
    with pytest.raises(ValueError, match="at least one kept prompt"):
        Drift(gram, e[:0]).of(edit)


@given(seed=scenes["seed"], width=scenes["width"], n=scenes["n"])
@fast
def test_recovery_trades_residual_for_norm(seed: int, width: int, n: int) -> None:
    (_, gram), (c, v) = model(seed, width), normal(seed + 1, (n, width), (n, width))
    edit = solve(c, v, ridge=2.0)
    ridges = [10.0**power for power in range(4, -13, -2)]
    curve = recovery_curve(edit, gram, c, ridges)
    assert (curve.residual.diff(dim=0) <= 1e-12).all()
    assert (curve.norm.diff(dim=0) >= -1e-9 * curve.norm[1:]).all()

    nothing = LowRank(torch.eye(width).double(), -torch.eye(width).double())
    assert torch.allclose(
        recovery_curve(nothing, gram, c, [1.0]).residual, torch.ones(1, n).double()
    )
    assert curve.residual[0].min() > 0.5
    assert curve.residual[-1].max() < 1e-6
    inverse = torch.linalg.solve(edit.dense(), c.T).T
    assert torch.allclose(curve.norm[-1], inverse.norm(dim=1) / c.norm(dim=1), rtol=1e-3)


@pytest.mark.parametrize("kind", ["layer norm", "rms norm", "ball", "wide ball", "projected"])
def test_a_form_is_pulled_onto_the_axes_as_the_product_says(kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    scale, shift = torch.rand(2, 8, generator=rng, dtype=torch.float64)
    surface = {
        "layer norm": lambda: layer_norm(scale, shift),
        "rms norm": lambda: rms_norm(scale),
        "ball": lambda: ball(torch.randn(4, 8, generator=rng), 8),
        "wide ball": lambda: ball(torch.randn(4, 6, generator=rng), 8),
        "projected": lambda: projected(torch.randn(8, 8, generator=rng), rms_norm(scale)),
    }[kind]()
    form = torch.randn(8, 8, generator=rng, dtype=torch.float64)
    expected = surface.axes.double().T @ form @ surface.axes.double()
    assert torch.allclose(surface.pull(form), expected, rtol=1e-13, atol=1e-13)
