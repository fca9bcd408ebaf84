"""Theorems of the ridge map and of low-rank maps."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from efface.linalg import LowRank, ridge_map

S, P, RIDGE = 1.3, 0.7, 0.5
shapes = {
    "seed": st.integers(0, 2**31),
    "width": st.integers(2, 12),
    "n": st.integers(1, 15),
    "k": st.integers(0, 15),
}
fast = settings(max_examples=25, deadline=None)


def normal(seed: int, *sizes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=rng, dtype=torch.float64) for size in sizes]


def far(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def solve(
    erase: Tensor,
    goal: Tensor,
    keep: Tensor | None = None,
    *,
    gram: Tensor | None = None,
    s: float = S,
    p: float = P,
    ridge: float = RIDGE,
) -> LowRank:
    return ridge_map(erase, goal, keep, keep_gram=gram, erase_weight=s, keep_weight=p, ridge=ridge)


def random_map(seed: int, width: int, rank: int) -> LowRank:
    return LowRank(*normal(seed, (width, rank), (width, rank)))


def literal_update(weight: Tensor, erase: Tensor, goal: Tensor, keep: Tensor) -> Tensor:
    """UCE's update of one layer as the paper writes it, sum by sum."""
    left = RIDGE * weight
    right = RIDGE * torch.eye(weight.shape[1], dtype=torch.float64)
    for c, v in zip(erase, goal, strict=True):
        left = left + S * torch.outer(weight @ v, c)
        right = right + S * torch.outer(c, c)
    for r in keep:
        left = left + P * torch.outer(weight @ r, r)
        right = right + P * torch.outer(r, r)
    solution: Tensor = torch.linalg.solve(right.T, left.T)
    return solution.T


@given(**shapes)
@fast
def test_map_equals_the_literal_update_of_every_layer(
    seed: int, width: int, n: int, k: int
) -> None:
    c, v, r, *layers = normal(seed, (n, width), (n, width), (k, width), (7, width), (4, width))
    edit = solve(c, v, r).dense()
    for weight in layers:
        assert far(weight @ edit, literal_update(weight, c, v, r)) < 1e-10
        assert far(weight, literal_update(weight, c, v, r)) > 1e-3  # the edit does something


@given(**shapes)
@fast
def test_map_satisfies_the_normal_equations(seed: int, width: int, n: int, k: int) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (k, width))
    base = RIDGE * torch.eye(width, dtype=torch.float64) + P * r.T @ r
    edit = solve(c, v, r).dense()
    assert far(edit @ (base + S * c.T @ c), base + S * v.T @ c) < 1e-10


@given(**shapes)
@fast
def test_map_is_where_the_gradient_of_the_objective_vanishes(
    seed: int, width: int, n: int, k: int
) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (k, width))

    def gradient(edit: Tensor) -> float:
        edit = edit.requires_grad_()
        erased = (c @ edit.T - v).square().sum()
        kept = (r @ edit.T - r).square().sum()
        moved = (edit - torch.eye(width)).square().sum()
        (slope,) = torch.autograd.grad(S * erased + P * kept + RIDGE * moved, edit)
        return float(slope.norm())

    at_start = gradient(torch.eye(width, dtype=torch.float64))
    assert gradient(solve(c, v, r).dense()) < 1e-10 * at_start


@given(**shapes)
@fast
def test_every_route_to_the_solution_agrees(seed: int, width: int, n: int, k: int) -> None:
    """Rows or Gram, sample space or embedding space, some of the keep rows as each."""
    c, v, r = normal(seed, (n, width), (n, width), (k, width))
    by_rows = solve(c, v, r).dense()
    by_gram = solve(c, v, gram=r.T @ r).dense()
    half = k // 2
    mixed = solve(c, v, r[:half], gram=r[half:].T @ r[half:]).dense()
    assert far(by_rows, by_gram) < 1e-10
    assert far(mixed, by_gram) < 1e-10


def test_woodbury_and_direct_agree_at_the_scale_of_real_embeddings() -> None:
    c, v, r = (28 / 64**0.5 * x for x in normal(0, (20, 64), (20, 64), (30, 64)))
    woodbury = solve(c, v, r, s=1.0, p=0.1, ridge=0.1).dense()
    assert far(woodbury, solve(c, v, gram=r.T @ r, s=1.0, p=0.1, ridge=0.1).dense()) < 1e-10


@given(**shapes)
@fast
def test_rank_is_at_most_the_number_of_keys(seed: int, width: int, n: int, k: int) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (k, width))
    change = solve(c, v, r).dense() - torch.eye(width)
    assert torch.linalg.matrix_rank(change, rtol=1e-10) == min(n, width)  # ≤, and no less


@given(**shapes)
@fast
def test_identity_when_there_is_nothing_to_do(seed: int, width: int, n: int, k: int) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (k, width))
    eye = torch.eye(width, dtype=torch.float64)
    assert torch.equal(solve(c, c, r).dense(), eye)
    assert torch.equal(solve(c, v, r, s=0.0).dense(), eye)
    assert far(solve(c, v, r, ridge=1e12).dense(), eye) < 1e-8
    assert far(solve(c, v, r).dense(), eye) > 1e-3


@given(seed=shapes["seed"], width=shapes["width"])
@fast
def test_one_row_closed_form(seed: int, width: int) -> None:
    c, v = normal(seed, (1, width), (1, width))
    closed = torch.eye(width) + S * (v - c).T @ c / (RIDGE + S * c.square().sum())
    assert far(solve(c, v).dense(), closed) < 1e-12


@given(**shapes, factor=st.floats(1e-3, 1e3))
@fast
def test_only_ratios_of_weights_matter(
    seed: int, width: int, n: int, k: int, factor: float
) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (k, width))
    edit = solve(c, v, r).dense()
    scaled = solve(c, v, r, s=factor * S, p=factor * P, ridge=factor * RIDGE).dense()
    assert far(scaled, edit) < 1e-10
    assert far(solve(c, v, r, s=factor * S, p=factor * P, ridge=factor).dense(), edit) > 1e-4


@given(**shapes)
@fast
def test_kept_rows_move_less_the_more_they_weigh(seed: int, width: int, n: int, k: int) -> None:
    c, v, r = normal(seed, (n, width), (n, width), (max(k, 1), width))
    moved = []
    for keep_weight in (0.0, 0.01, 0.1, 1.0, 10.0, 100.0):
        edit = solve(c, v, r, p=keep_weight)
        moved.append((edit.apply(r) - r).norm().item())
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < moved[0]


@given(**shapes)
@fast
def test_order_matters_across_solves_but_not_inside_one(
    seed: int, width: int, n: int, k: int
) -> None:
    c, v, r = normal(seed, (2 * n, width), (2 * n, width), (k, width))
    swap = torch.arange(2 * n).roll(n)
    together = solve(c, v, r).dense()
    assert far(solve(c[swap], v[swap], r).dense(), together) < 1e-10

    first, second = (solve(c[i], v[i], r) for i in (swap[:n], swap[n:]))
    assert far(first.compose(second).dense(), second.compose(first).dense()) > 1e-6


@given(**shapes)
@fast
def test_compose_is_an_edit_of_edited_weights(seed: int, width: int, n: int, k: int) -> None:
    """W′ = W T₁ edited again is W T₁ T₂: the later map meets the embedding first."""
    c, v, c2, v2, r, w, e = normal(
        seed, *[(n, width)] * 4, (k, width), (2 * width, width), (3, width)
    )
    first, then = solve(c, v, r), solve(c2, v2, r)
    twice = literal_update(literal_update(w, c, v, r), c2, v2, r)
    both = first.compose(then)
    assert far(w @ both.dense(), twice) < 1e-9
    assert far(w @ then.compose(first).dense(), twice) > 1e-6
    assert far(both.apply(e), first.apply(then.apply(e))) < 1e-10
    assert far(both.compose(LowRank.identity(width)).dense(), both.dense()) == 0


@given(seed=shapes["seed"], width=shapes["width"], rank=shapes["n"], share=st.floats(-2, 2))
@fast
def test_low_rank_apply_and_scale(seed: int, width: int, rank: int, share: float) -> None:
    edit, (e,) = random_map(seed, width, rank), normal(seed + 1, (5, width))
    assert far(edit.apply(e), e @ edit.dense().T) < 1e-12
    assert far(edit.scale(share).apply(e), e + share * (edit.apply(e) - e)) < 1e-12
    assert torch.equal(LowRank.identity(width).apply(e), e)


@given(seed=shapes["seed"], width=shapes["width"], rank=shapes["n"])
@fast
def test_compress_is_within_tol_and_no_longer_than_needed(seed: int, width: int, rank: int) -> None:
    """At tolerances just below and just above every singular value there is."""
    edit, eye = random_map(seed, width, rank), torch.eye(width, dtype=torch.float64)
    values = torch.linalg.svdvals(edit.dense() - eye)
    for share in (values / values[0]).tolist()[: min(rank, width)]:
        for tol in (share * (1 - 1e-6), share * (1 + 1e-6)):
            small = edit.compress(tol)
            error = torch.linalg.matrix_norm(small.dense() - edit.dense(), 2)
            assert error <= tol * values[0] + 1e-12 * values[0]
            assert small.a.shape[1] == (values > tol * values[0]).sum()


def test_compress_drops_what_composition_repeats() -> None:
    edit, (e,) = random_map(3, 20, 4), normal(4, (9, 20))
    long = edit.compose(edit).compose(edit)
    short = long.compress(1e-12)
    assert (long.a.shape[1], short.a.shape[1]) == (12, 4)
    assert far(short.apply(e), long.apply(e)) < 1e-10
    assert edit.scale(0.0).compress(1e-12).a.shape == (20, 0)
    assert LowRank.identity(20).compress(0.1).a.shape == (20, 0)


def test_bad_input_is_refused() -> None:
    c, v = normal(0, (2, 4), (2, 4))
    with pytest.raises(ValueError, match="ridge must be above 0"):
        solve(c, v, ridge=0.0)
    with pytest.raises(ValueError, match="must match row by row"):
        inspect.unwrap(ridge_map)(c, v[:1], erase_weight=S, keep_weight=P, ridge=RIDGE)
    with pytest.raises(ValueError, match="not positive definite"):
        solve(c * torch.nan, v)


def test_the_gram_of_an_edit_is_that_of_the_edited_matrices() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 9, 3, generator=rng, dtype=torch.float64)
    weights = torch.randn(20, 9, generator=rng, dtype=torch.float64)
    edit = LowRank(a, b)
    edited = weights @ edit.dense()
    cross, own = edit.pull(weights.T @ weights)
    assert torch.allclose(cross, edited.T @ weights, rtol=1e-12, atol=1e-12)
    assert torch.allclose(own, edited.T @ edited, rtol=1e-12, atol=1e-12)
