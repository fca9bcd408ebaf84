"""A device that is not there: "meta" as far as tensors say, with their numbers on the CPU.

A tensor elsewhere holds a real one and answers to every operation with real results, but only among
tensors elsewhere: what is computed with one of the CPU's raises, as on a real device. Code that
creates a tensor on the CPU where the model's device is meant fails here as it would fail there.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

AWAY = torch.device("meta")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Operations that may meet tensors of both devices."""
PICKS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default)
"""Operations whose indices, the second argument, may be the CPU's."""


class Elsewhere(Tensor):
    """A tensor on the device that is not there."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, *, requires_grad: bool = False) -> "Elsewhere":
        found = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=AWAY,
            requires_grad=requires_grad,
        )
        found.held = held
        return found

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return computed(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Tensors that are asked for there, or sent there, are made there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives, and where."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    away = [isinstance(x, Elsewhere) for x in given]
    wanted = kwargs.get("device")
    if any(away) and func not in MOVES:
        free = {id(x) for x in args[1]} if func in PICKS else set[int]()
        for tensor, there in zip(given, away, strict=True):
            if not there and tensor.ndim and tensor.numel() and id(tensor) not in free:
                raise RuntimeError(
                    f"{func}: expected all tensors on {AWAY}, one of {tuple(tensor.shape)} is on "
                    f"{tensor.device}"
                )
    if func is torch.ops.aten.copy_.default:
        there = away[0]
    else:
        there = any(away) if wanted is None else torch.device(wanted).type == AWAY.type
    bare = tree_map_only(Tensor, _bare, (args, dict(kwargs)))
    if wanted is not None:
        bare[1]["device"] = torch.device("cpu")
    found = func(*bare[0], **bare[1])
    if not there:
        return found
    if func._schema.name.endswith("_") and args:  # in place
        return args[0]
    return tree_map_only(Tensor, Elsewhere, found)


def _bare(tensor: Tensor) -> Tensor:
    """The numbers; `torch.tensor([], device=...)` comes by without a chance to hold it."""
    if isinstance(tensor, Elsewhere):
        return tensor.held
    return tensor if tensor.numel() else torch.empty(tensor.shape, dtype=tensor.dtype)


def _autocast(device: str, *args: Any, **settings: Any) -> AbstractContextManager[Any]:
    """Torch knows no lower precision there."""
    return nullcontext() if device == AWAY.type else torch.amp.autocast(device, *args, **settings)


@contextmanager
def elsewhere(*modules: nn.Module) -> Iterator[None]:
    """The modules' tensors are on that device while the block runs, and so is what they compute."""
    tensors = [
        (module, kind, name, tensor)
        for root in modules
        for module in root.modules()
        for kind in ("_parameters", "_buffers")
        for name, tensor in getattr(module, kind).items()
        if tensor is not None
    ]
    try:
        for module, kind, name, tensor in tensors:
            there = Elsewhere(tensor.detach())
            getattr(module, kind)[name] = (
                nn.Parameter(there, requires_grad=False) if kind == "_parameters" else there
            )
        with _Factories(), patch.object(torch, "autocast", _autocast):  # type: ignore[no-untyped-call]
            yield
    finally:
        for module, kind, name, tensor in tensors:
            getattr(module, kind)[name] = tensor
