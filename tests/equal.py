"""Patches and models as plain values that == compares bit for bit."""

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from efface.patch import Patch


def bits(tensor: Tensor | None) -> Any:
    """Dtype, shape and raw bytes."""
    if tensor is None:
        return None
    raw = tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), raw


def contents(patch: Patch) -> dict[str, Any]:
    """All that a patch says, less when it was saved."""
    return {
        "concept": patch.concept,
        "eraser": dict(patch.eraser),
        "base": patch.base,
        "facts": dict(patch.facts),
        "maps": [(m.encoder, bits(m.a), bits(m.b)) for m in patch.maps],
        "edits": [(e.param, e.op, e.reads, bits(e.a), bits(e.b)) for e in patch.edits],
        "gates": [
            (g.site, g.kind, g.reads, dict(g.settings), {n: bits(t) for n, t in g.tensors.items()})
            for g in patch.gates
        ],
    }


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Every tensor, flag and hook of every part of a pipeline."""
    found: dict[str, Any] = {}
    for part, module in pipe.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            found[f"{part}/{name}"] = bits(tensor), tensor.requires_grad, tensor.data_ptr()
        for name, inner in module.named_modules():
            found[f"{part}:{name}"] = inner.training, hooks(inner)
    return found


def hooks(module: torch.nn.Module) -> int:
    """How many hooks hang on one module."""
    return sum(
        len(getattr(module, name))
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )
