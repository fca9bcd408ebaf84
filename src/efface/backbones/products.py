"""Linear layers of many pictures on a CPU, by oneDNN.

PyTorch hands float32 products to MKL, which on AMD processors reaches half of what they can do; its
convolutions go to oneDNN already. Sums are the same but for the order of their terms, so pictures
differ from a bare pipeline's by single levels here and there.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MANY = 16
"""Rows of a batch from which the saving is more than what looking at every call costs."""


def fast_products(count: int, device: torch.device) -> AbstractContextManager[object]:
    """Within it, `linear` on a CPU that has MKL is oneDNN's; for `count` rows."""
    asked = count >= MANY and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return OneDnn() if asked and device.type == "cpu" and there() else nullcontext()


def there() -> bool:
    """Whether this PyTorch has both."""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class OneDnn(TorchFunctionMode):
    """Takes the calls of `linear` that it can do, and leaves all others."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One call of PyTorch's."""
        if func is F.linear and not kwargs and all(map(_plain, args)) and args[0].ndim > 1:
            rows, weight, *rest = args
            bias = rest[0] if rest else None
            return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _plain(value: Tensor | None) -> bool:
    return value is None or (
        type(value) in (Tensor, nn.Parameter)
        and value.dtype is torch.float32
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and value.numel() > 0
    )
