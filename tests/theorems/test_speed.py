"""SPEED's theorems: blind to what is kept, exact on what is fixed, plain where nothing is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.model import Model, open_folder
from efface.core import Concept, EffaceError, quiet
from efface.erasers import build
from efface.linalg import LowRank
from efface.tokens import Pairs
from efface.tokens import kept as kept_rows
from tests.families import build_family

WIDTH, KEPT = 24, 10


def speed(**settings: Any) -> Any:
    return build("speed", **settings)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def world() -> tuple[Pairs, Tensor, Tensor, Tensor]:
    """Rows to erase with goals, kept rows of rank `KEPT`, fixed rows, G."""
    pairs = Pairs(randn(5, WIDTH, seed=1), randn(5, WIDTH, seed=2))
    kept = randn(60, KEPT, seed=3) @ randn(KEPT, WIDTH, seed=4)
    reader = randn(40, WIDTH, seed=5)
    return pairs, kept, randn(3, WIDTH, seed=6), reader.T @ reader


def dense(pairs: Pairs, projector: Tensor, fixed: Tensor, k: float, weight: float) -> Tensor:
    """The paper's formula, matrix by matrix."""
    stt = pairs.rows.T @ pairs.rows / len(pairs.rows)
    sat = pairs.goals.T @ pairs.rows / len(pairs.rows)
    eye, k2 = torch.eye(WIDTH).double(), fixed.T
    m = (stt @ projector + k * eye).inverse()
    inner = (k2.T @ projector @ m @ k2 + weight * torch.eye(len(fixed)).double()).inverse()
    return eye + (sat - stt) @ projector @ (eye - m @ k2 @ inner @ k2.T @ projector) @ m


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_map_is_the_papers(weight: float, world: Any) -> None:
    pairs, kept, fixed, gram = world
    eraser = speed(filtered=False, fix_ridge=weight, ridge=0.7)
    projector = eraser.projector(pairs, kept, gram)
    found = eraser.solve(pairs, projector, fixed)
    assert found.a.shape[1] == len(pairs.rows), "rank: the erased rows"
    torch.testing.assert_close(found.dense(), dense(pairs, projector, fixed, 0.7, weight))


def test_what_is_kept_and_fixed_stays_exactly(world: Any) -> None:
    pairs, kept, fixed, gram = world
    eraser = speed(filtered=False)
    projector = eraser.projector(pairs, kept, gram)
    assert projector.trace().item() == pytest.approx(WIDTH - KEPT)
    edit = eraser.solve(pairs, projector, fixed)
    torch.testing.assert_close(edit.apply(kept), kept)
    torch.testing.assert_close(edit.apply(fixed), fixed)
    moved = (edit.apply(pairs.rows) - pairs.rows).norm() / pairs.rows.norm()
    assert moved > 0.1, "the control: what is erased does move"
    loose = eraser.solve(pairs, torch.eye(WIDTH).double(), fixed)
    assert (loose.apply(kept) - kept).norm() > 0.1 * kept.norm(), "it is the projector that holds"


def test_a_small_ridge_reaches_the_goals_in_free_directions() -> None:
    """Erased rows that the kept ones leave free wholly go to their goals."""
    kept = randn(30, KEPT, seed=3) @ torch.eye(KEPT, WIDTH).double()
    rows = torch.cat([torch.zeros(3, KEPT).double(), randn(3, WIDTH - KEPT, seed=1)], 1)
    pairs, fixed = Pairs(rows, randn(3, WIDTH, seed=2)), torch.eye(1, WIDTH).double()
    eraser = speed(filtered=False, ridge=1e-9)
    projector = eraser.projector(pairs, kept, torch.eye(WIDTH).double())
    edit = eraser.solve(pairs, projector, fixed)
    torch.testing.assert_close(edit.apply(rows), pairs.goals, rtol=1e-4, atol=1e-4)


def test_goal_is_itself_gives_identity(world: Any) -> None:
    pairs, kept, fixed, gram = world
    eraser = speed()
    same = Pairs(pairs.rows, pairs.rows)
    edit: LowRank = eraser.solve(same, eraser.projector(pairs, kept, gram), fixed)
    assert torch.equal(edit.dense(), torch.eye(WIDTH).double())


def test_a_large_ridge_gives_identity(world: Any) -> None:
    pairs, _, fixed, _ = world
    far: LowRank = speed(ridge=1e12).solve(pairs, torch.eye(WIDTH).double(), fixed)
    assert (far.dense() - torch.eye(WIDTH).double()).norm() < 1e-9


def test_the_filter_frees_directions(world: Any) -> None:
    """Fewer kept rows bind fewer directions, and those left out are moved least by a plain edit."""
    pairs, _, _, gram = world
    kept = torch.cat([1e-3 * torch.eye(WIDTH).double()[:12], pairs.rows + 0.1])
    whole, some = (speed(filtered=f, free=1e-9).projector(pairs, kept, gram) for f in (False, True))
    assert some.trace() > whole.trace()


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_kept_prompts_stay_on_every_stream(name: str, tmp_path: Path) -> None:
    model: Model = open_folder(build_family(name, tmp_path / name))
    concept = Concept("animals", ("cat", "dog"), keep=("house",))
    rng = Generator().manual_seed(0)
    ours = speed(filtered=False, free=1e-6, ridge=0.1).fit(model, concept, rng, quiet)
    plain = build("uce").fit(model, concept, rng, quiet)
    assert {m.encoder for m in ours.maps} == set(model.streams)
    for mine, theirs in zip(ours.maps, plain.maps, strict=True):
        held = kept_rows(model.encode(concept.keep, mine.encoder), "last_to_end").double()
        gone = kept_rows(model.encode(concept.erase, mine.encoder), "last_to_end").double()

        def moved(rows: Tensor, m: Any) -> float:
            return ((LowRank(m.a, m.b).apply(rows) - rows).norm() / rows.norm()).item()

        assert moved(held, mine) < 0.2 * moved(held, theirs)
        assert moved(gone, mine) > 10 * moved(held, mine), "the control"


def test_bad_settings_are_refused() -> None:
    wrong: dict[str, Any]
    for wrong in ({"ridge": 0.0}, {"free": -1.0}, {"fix_ridge": -1.0}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            speed(**wrong)
