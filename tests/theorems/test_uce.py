"""Theorems of UCE on a small real pipeline, each against the paper's formula or its own limit."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from efface.backbones.merge import Merge
from efface.backbones.model import Model, open_folder
from efface.backbones.pipeline import apply
from efface.core import Concept, quiet
from efface.erasers.uce import PRESETS, UCE
from efface.linalg import LowRank
from efface.patch import Patch
from efface.tokens import RowPolicy
from tests.theorems import literal
from tests.theorems.test_linalg import far

Technique = Literal["replace", "tensor"]
POLICIES: tuple[RowPolicy, ...] = ("last", "last_to_end", "all")
TECHNIQUES: tuple[Technique, ...] = ("replace", "tensor")
CAT = Concept("cat", ("cat",))
SEVERAL = Concept("several", ("a cat", "house"), ("dog", ""), ("tree", "red hat"))
STORED = 1e-5
"""Relative error of a change that is kept in float32, after compression to 1e-6."""


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


def fit(model: Model, eraser: Any, concept: Concept) -> Patch:
    patch: Patch = eraser.fit(model, concept, torch.Generator(), quiet)
    return patch


def change(model: Model, eraser: Any, concept: Concept) -> Float[Tensor, "all width"]:
    """W′ − W of every matrix, stacked, as `Merge` would make it."""
    base = literal.weights(model)
    merge = Merge([fit(model, eraser, concept)], model.fingerprint, model.where, base)
    return torch.cat([merge.weight(name, w) - w for name, w in base.items()])


def text_map(patch: Patch) -> LowRank:
    (found,) = patch.maps
    return LowRank(found.a, found.b)


def moved(patch: Patch, rows: Float[Tensor, "n width"]) -> float:
    """How far the map takes rows, relative to their length."""
    return ((text_map(patch).apply(rows) - rows).norm() / rows.norm()).item()


def spoken(model: Model, prompt: str) -> Float[Tensor, "n width"]:
    return literal.states(model, prompt)[literal.last_word(model, prompt) :]


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("concept", [CAT, SEVERAL], ids=lambda c: c.name)
def test_equals_the_papers_formula_matrix_by_matrix(
    model: Model, policy: RowPolicy, technique: Technique, concept: Concept
) -> None:
    eraser = UCE(policy, technique, 2.0, keep_weight=0.3, word_weight=1.0, ridge=0.7)
    base = literal.weights(model)
    found = literal.uce(
        base,
        literal.blocks(model, concept, policy),
        literal.kept(model, concept, policy),
        s=2.0,
        p=0.3,
        ridge=0.7,
        technique=technique,
    )
    expected = torch.cat([found[name] - w for name, w in base.items()])
    assert far(change(model, eraser, concept), expected) < STORED
    assert expected.norm() > 0.05 * torch.cat(list(base.values())).norm()


def test_presets_are_the_papers_formula(model: Model) -> None:
    """Weights as in the authors' code: kept prompts 1 for the empty one alone, 0.1 with artists."""
    base = literal.weights(model)
    for name, policy, p in (
        ("paper", "last_to_end", 1.0),
        ("current-code", "last", 1.0),
        ("style", "last_to_end", 0.1),
    ):
        blocks, keep = literal.blocks(model, CAT, policy), literal.kept(model, CAT, policy)
        found = literal.uce(base, blocks, keep, s=1.0, p=p, ridge=0.5)
        expected = torch.cat([found[k] - w for k, w in base.items()])
        assert far(change(model, PRESETS[name], CAT), expected) < STORED


@pytest.mark.parametrize("policy", POLICIES)
def test_own_text_as_goal_is_the_identity(model: Model, policy: RowPolicy) -> None:
    itself = replace(SEVERAL, toward=SEVERAL.erase)
    assert change(model, UCE(policy), itself).norm() == 0
    assert change(model, UCE(policy), SEVERAL).norm() > 0


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_great_ridge_leaves_everything(model: Model, technique: Technique) -> None:
    sizes = [
        change(model, UCE(technique=technique, ridge=ridge), SEVERAL).norm().item()
        for ridge in (0.5, 50.0, 5e3, 5e9)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-6 * sizes[0]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_order_inside_one_solve_does_not_matter(model: Model, technique: Technique) -> None:
    turned = replace(
        SEVERAL,
        erase=SEVERAL.erase[::-1],
        toward=SEVERAL.toward[::-1],
        keep=SEVERAL.keep[::-1],
    )
    eraser = UCE(technique=technique)
    assert far(change(model, eraser, turned), change(model, eraser, SEVERAL)) < STORED
    mixed = replace(SEVERAL, toward=SEVERAL.toward[::-1])
    assert far(change(model, eraser, mixed), change(model, eraser, SEVERAL)) > 0.01


def test_only_the_ratios_of_the_weights_matter(model: Model) -> None:
    tenfold = UCE(erase_weight=10.0, keep_weight=10.0, ridge=5.0)
    assert far(change(model, tenfold, SEVERAL), change(model, UCE(), SEVERAL)) < STORED


def test_one_row_is_the_rank_one_formula(model: Model) -> None:
    """T = I + s (c* − c) cᵀ / (λ + s |c|²) where nothing is kept."""
    c, goal = spoken(model, "cat")[0], spoken(model, "dog")[0]
    patch = fit(model, UCE("last", erase_weight=3.0, ridge=0.2), replace(CAT, toward=("dog",)))
    expected = 3.0 * torch.outer(goal - c, c) / (0.2 + 3.0 * c.square().sum())
    assert text_map(patch).a.shape[1] == 1
    assert far(text_map(patch).dense() - torch.eye(len(c)), expected) < STORED


def test_kept_rows_move_less_the_more_they_weigh(model: Model) -> None:
    rows = torch.cat([literal.states(model, k) for k in ("", *SEVERAL.keep)])
    drift = [moved(fit(model, UCE(keep_weight=p), SEVERAL), rows) for p in (0.0, 0.1, 1.0, 10.0)]
    assert drift == sorted(drift, reverse=True)
    assert drift[-1] < 0.5 * drift[0]


def test_tensor_technique_leaves_nothing_along_the_concept(model: Model) -> None:
    """Without ridge or keeping, what a matrix makes of the concept is orthogonal to before."""
    concept = Concept("house", ("house",), ("dog",))
    ((rows, _),) = literal.blocks(model, concept, "last_to_end")
    base = literal.weights(model)
    patch = fit(model, UCE(technique="tensor", keep_weight=0.0, ridge=1e-6), concept)
    merge = Merge([patch], model.fingerprint, model.where, base)
    for name, w in base.items():
        before, after = rows @ w.T, rows @ merge.weight(name, w).T
        cosine = (before * after).sum() / before.norm() / after.norm()
        assert abs(cosine) < 1e-3
        assert after.norm() > 0.1 * before.norm()


@torch.no_grad()
def test_baked_weights_equal_the_map_on_the_text(model: Model, pipe: DiffusionPipeline) -> None:
    patch = fit(model, UCE(), SEVERAL)
    rows = model.encode(["a cat", "tree", ""]).states
    mapped = text_map(patch).apply(rows.flatten(0, 1)).float().view_as(rows)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    baked = apply(pipe, patch).unet(noise, 500, rows).sample
    assert far(baked, pipe.unet(noise, 500, mapped).sample) < 1e-5
    assert far(baked, pipe.unet(noise, 500, rows).sample) > 1e-3


@torch.no_grad()
def test_the_concept_moves_and_what_is_kept_moves_less(
    model: Model, pipe: DiffusionPipeline
) -> None:
    concept = Concept("house", ("house",), ("dog",), ("tree",))
    patch = fit(model, UCE(), concept)
    erased, goal, kept = (spoken(model, p) for p in ("house", "dog", "tree"))
    n = min(len(erased), len(goal))
    after = text_map(patch).apply(erased)
    assert (after[:n] - goal[:n]).norm() < 0.5 * (erased[:n] - goal[:n]).norm()
    assert moved(patch, erased) > 3 * moved(patch, kept)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    view = apply(pipe, patch)

    def shift(prompt: str) -> float:
        rows = model.encode([prompt]).states
        return far(view.unet(noise, 500, rows).sample, pipe.unet(noise, 500, rows).sample)

    assert shift("house") > 3 * shift("tree")
