"""Factors of a change: exact for maps, the best of their rank for all else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface.backbones.ldm_names import DENOISER
from efface.backbones.original import original_names
from efface.lora import balanced, truncated
from tests.ldm import REAL, ldm_unet


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_truncated_is_the_nearest_of_its_rank(rows: int, columns: int, rank: int) -> None:
    change = drawn(rows, columns)
    up, down, error = truncated(change, rank)
    assert up.shape[1] == len(down) <= min(rank, rows, columns)
    values = torch.linalg.svdvals(change)
    lost = (change - up @ down).norm()
    torch.testing.assert_close(lost, values[rank:].norm(), atol=1e-12, rtol=1e-9)
    assert error == pytest.approx((lost / change.norm()).item(), abs=1e-12)
    assert (error > 1e-3) == (rank < min(rows, columns))


def test_rank_is_no_higher_than_the_change() -> None:
    up, down, error = truncated(drawn(8, 2) @ drawn(2, 7, seed=1), 6)
    assert up.shape[1] == len(down) == 2
    assert error < 1e-12
    nothing = truncated(torch.zeros(4, 3, dtype=torch.float64), 2)
    assert nothing.error == 0
    assert nothing.up.shape == (4, 0)


def test_balanced_is_the_same_product_in_reach_of_half_precision() -> None:
    up, down = drawn(8, 3) * 1e6, drawn(3, 5, seed=1) * 1e-6
    up[:, 2], down[2] = 0, 1
    one, other, error = balanced(up, down)
    torch.testing.assert_close(one @ other, up @ down)
    assert error == 0
    torch.testing.assert_close(one.norm(dim=0)[:2], other.norm(dim=1)[:2])
    half = one.half().double() @ other.half().double()
    assert (half - up @ down).norm() < 1e-2 * (up @ down).norm()
    assert not up.half().isfinite().all()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_original_names_are_those_of_the_files(kind: str, layers: int) -> None:
    from diffusers import UNet2DConditionModel

    config = REAL[kind] | {"layers_per_block": layers}
    with torch.device("meta"):
        names = list(UNet2DConditionModel(**config).state_dict())
    meant = {
        o: t.removeprefix(DENOISER) for t, o in ldm_unet({n: n for n in names}, config).items()
    }
    found = original_names("sd" if kind == "sd1" else kind, names)
    inside = {n for n in names if ".attentions." in n or n.startswith("add_embedding.linear_1")}
    assert set(found) == inside
    assert found == {n: meant[n] for n in inside}
