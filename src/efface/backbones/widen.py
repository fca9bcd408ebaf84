"""Half-precision encoders run in float32 without a second copy: a layer is widened while it runs.

The numbers are those of an encoder that was read in float32, for half to single is exact.
"""

from typing import Any

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def widened(model: nn.Module) -> nn.Module:
    """The same model; every layer that holds half-precision weights now computes in float32."""
    for module in model.modules():
        if not any(p.dtype in HALF for p in module.parameters(recurse=False)):
            continue
        if isinstance(module, nn.Embedding):  # a few of its rows are read
            module.register_forward_hook(_float)
        else:
            module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_narrow, always_call=True)
    return model


def widened_for_good(model: nn.Module) -> nn.Module:
    """The same model with its widened layers stored in float32, as training them needs."""
    for module in model.modules():
        hooks: list[Any] = [module._forward_pre_hooks, module._forward_hooks]
        found = [(held, key) for held in hooks for key in held if held[key] in OURS]
        for held, key in found:
            del held[key]
        for p in module.parameters(recurse=False) if found else ():
            p.data = p.data.float()
    return model


def _float(_: Any, __: Any, rows: Any) -> Any:
    return rows.float()


def _widen(module: Any, _: Any) -> None:
    module.narrow = {name: p.data for name, p in module.named_parameters(recurse=False)}
    for p in module.parameters(recurse=False):
        p.data = p.data.float()


def _narrow(module: Any, _: Any, __: Any) -> None:
    for name, p in module.named_parameters(recurse=False):
        p.data = module.narrow[name]
    del module.narrow


OURS = (_float, _widen, _narrow)
"""The hooks that widen."""
