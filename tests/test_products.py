"""Linear layers by oneDNN: the same numbers, where they pay, and nowhere else."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from efface.backbones.products import MANY, fast_products, there

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not there(), reason="this PyTorch has no MKL or no oneDNN")


class Calls(TorchDispatchMode):
    """Names of the operators that PyTorch ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def taken(
    rows: Tensor,
    weight: Tensor,
    *bias: Tensor | None,
    count: int = MANY,
    around: AbstractContextManager[object] | None = None,
) -> bool:
    """Whether oneDNN's product was used; the result is checked against PyTorch's."""
    with around or nullcontext():
        wanted = F.linear(rows, weight, *bias)
        with Calls() as calls, fast_products(count, CPU):
            found = F.linear(rows, weight, *bias)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    return "mkldnn::_linear_pointwise" in calls.names


def test_numbers_are_those_of_linear() -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 4, 40, generator=draw)
    weight, bias = nn.Parameter(torch.randn(7, 40, generator=draw)), torch.randn(7, generator=draw)
    with torch.no_grad():
        assert taken(wide, weight)
        assert taken(wide, weight, bias)
        assert taken(wide, weight, None)
        assert taken(wide.transpose(0, 1), weight, bias)
        assert taken(wide[..., ::2], weight[:, ::2], bias)
        assert taken(wide[:1].expand(6, 4, 40), weight[1:], bias[1:])


def test_what_is_left_to_pytorch() -> None:
    rows, weight = torch.ones(6, 4, 40), torch.ones(7, 40)
    assert not taken(rows, weight)  # gradients are asked for
    with torch.no_grad():
        assert taken(rows, weight)
        assert not taken(rows, weight, count=MANY - 1)
        assert not taken(rows.double(), weight.double())
        assert not taken(rows, weight, around=torch.autocast("cpu", torch.bfloat16))
        assert not taken(rows[0, 0], weight)
        assert not taken(rows[:0], weight)


def test_gradients_go_through_a_denoiser_as_before() -> None:
    rows, weight = torch.ones(6, 4, 40), nn.Parameter(torch.ones(7, 40))
    with fast_products(MANY, CPU):
        F.linear(rows, weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.full((7, 40), 24.0))


def test_a_compiled_module_draws_within_it() -> None:
    layer = nn.Linear(40, 7)
    rows = torch.ones(6, 4, 40)
    compiled = torch.compile(layer, backend="eager")
    with torch.no_grad(), fast_products(MANY, CPU):
        found = compiled(rows)
    torch.testing.assert_close(found, layer(rows))
