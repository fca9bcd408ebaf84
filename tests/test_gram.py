"""The cache of G: formed once per content, formed again where the file is not what it says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from efface.backbones.gram import ROWS, STRIP, WORTH, cached, gram
from efface.cache import cache_folder

WIDTH = 40
COUNT = WORTH // WIDTH**2 + 1


@pytest.fixture
def formed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often G was formed; the cache is empty at first."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    return []


def weights() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(out, WIDTH, generator=rng).half() for out in (30, 50)]


def ask(formed: list[int], key: str = "a", count: int = COUNT) -> Tensor:
    def form() -> Tensor:
        formed.append(1)
        return gram(weights())

    return cached(key, WIDTH, count, form)


def test_it_is_the_sum_in_float64() -> None:
    rng = torch.Generator().manual_seed(0)
    for width in (WIDTH, STRIP + 7):
        held = [torch.randn(out, width, generator=rng) for out in (30, ROWS + 50)]
        wide = torch.cat(held).double()
        torch.testing.assert_close(gram(held), wide.T @ wide, rtol=1e-13, atol=1e-11)
    with pytest.raises(ValueError, match="no readers"):
        gram([])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_loses_nothing_that_counts(dtype: torch.dtype) -> None:
    """Sums in float32 alone would be rougher."""
    rng = torch.Generator().manual_seed(0)
    held = [(1 + torch.randn(ROWS, STRIP, generator=rng)).to(dtype) for _ in range(8)]
    wide = torch.cat(held).double()
    exact = wide.T @ wide
    assert (gram(held) - exact).norm() < 5e-7 * exact.norm()
    rough = torch.zeros(STRIP, STRIP)
    for row in wide.float():
        rough += torch.outer(row, row)
    assert (rough - exact).norm() > 5e-7 * exact.norm()


def test_formed_once_for_each_content(formed: list[int]) -> None:
    first = ask(formed)
    assert torch.equal(ask(formed), first)
    assert len(formed) == 1
    ask(formed, "b")
    assert len(formed) == 2


def test_what_is_quick_to_form_is_not_kept(formed: list[int]) -> None:
    ask(formed, count=1)
    ask(formed, count=1)
    assert len(formed) == 2
    assert not cache_folder().exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff" * 40,
        torch.zeros(WIDTH, WIDTH),
        torch.zeros(3, WIDTH).double(),
        torch.full((WIDTH, WIDTH), torch.nan).double(),
    ],
    ids=["empty", "noise", "dtype", "shape", "nan"],
)
def test_a_damaged_file_is_formed_again(formed: list[int], damage: bytes | Tensor) -> None:
    first = ask(formed)
    [file] = cache_folder().iterdir()
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        save_file({"gram": damage}, file)
    assert torch.equal(ask(formed), first)
    assert len(formed) == 2
    assert torch.equal(ask(formed), first)
    assert len(formed) == 2  # and kept again


def test_a_folder_that_takes_no_file_does_no_harm(
    formed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "file" / "cache"))
    assert torch.equal(ask(formed), gram(weights()))
