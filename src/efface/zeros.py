"""What the zeros of a pruned model tell: which weights drew the concept.

"Roots Beneath the Cut" (arXiv:2603.06640): whoever holds a pruned model reads the mask off its
exact zeros, without the base model and without data, and from the mask revives the concept. A
trained matrix has next to none of its own. This is the check, not that revival.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FEW = 0.001
"""Zeros in a matrix, as a share, that rounding or a dead unit may leave."""
SHOWN = 5
"""Layers that are told by name."""


def leak(erased: "DiffusionPipeline", base: "DiffusionPipeline") -> dict[str, Any] | None:
    """How many weights of matrices became exactly 0, and in which layers; None if next to none."""
    layers, zeros, size = dict[str, float](), 0, 0
    for name, after, before in _changed(erased, base):
        fresh = int(((after == 0) & (before != 0)).sum())
        if fresh > FEW * after.numel():
            layers[name] = fresh / after.numel()
            zeros, size = zeros + fresh, size + after.numel()
    if not layers:
        return None
    worst = sorted(layers, key=lambda name: (-layers[name], name))[:SHOWN]
    return {
        "zeros": zeros,
        "of": size,
        "layers": len(layers),
        "most": {name: round(layers[name], 4) for name in worst},
    }


def _changed(
    erased: "DiffusionPipeline", base: "DiffusionPipeline"
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Matrices and kernels that both have and that are not one tensor."""
    for part, module in erased.components.items():
        other = base.components.get(part)
        if not isinstance(module, torch.nn.Module) or not isinstance(other, torch.nn.Module):
            continue
        theirs = dict(other.named_parameters())
        for name, after in module.named_parameters():
            before = theirs.get(name)
            if after.ndim < 2 or before is None or before.shape != after.shape:
                continue
            if before.data_ptr() != after.data_ptr():
                yield f"{part}/{name}", after.detach(), before.detach().to(after.device)
