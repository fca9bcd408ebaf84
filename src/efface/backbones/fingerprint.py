"""Content hashes that survive loading in another precision."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def roundings(tensors: Iterable[Tensor]) -> str:
    """Hash of tensors in two roundings, float16 and bfloat16, of which one half may change.

    A checkpoint keeps one of the halves when it is loaded in another precision: `same_base`.
    """
    half, brain = hashlib.sha256(), hashlib.sha256()
    for tensor in tensors:
        held = tensor.detach().cpu()
        half.update(held.to(torch.float16).contiguous().numpy().data)
        brain.update(held.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data)
    return f"{half.hexdigest()[:16]}-{brain.hexdigest()[:16]}"
