"""G = Σ WᵀW of a stream's readers: once per base model, kept on disk by the model's content.

Everything that RECE and the certificate need of a denoiser is in G. For a large U-Net it takes
seconds to form and megabytes to keep, so it is cached under the user's cache folder; the name is
the fingerprint of what it was formed from, and a damaged file is formed again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from efface.cache import cache_folder
from efface.output import write_whole

WORTH = 10**7
"""Matrices times squared width below which G is formed faster than it is looked up."""
STRIP, ROWS = 256, 1280
"""Rows of G formed at once, from the diagonal to the right; rows of a matrix summed at once."""


def gram(weights: Iterable[Float[Tensor, "_ width"]]) -> Float[Tensor, "width width"]:
    """The sum, one matrix at a time, float64; only its upper half is multiplied out.

    Products of half-precision numbers are exact in float32, which is twice as fast: `ROWS` of them
    are summed in it, and these sums in float64. SDXL's G is exact to 2e-7 of itself.
    """
    total: Tensor | None = None
    for weight in weights:
        held = weight.detach().cpu()
        wide = held.float() if held.dtype.itemsize == 2 else held.double()
        if total is None:
            total = torch.zeros(wide.shape[1], wide.shape[1], dtype=torch.float64)
        for rows in wide.split(ROWS):
            for start in range(0, len(total), STRIP):
                strip = rows[:, start : start + STRIP]
                total[start : start + STRIP, start:] += strip.T @ rows[:, start:]
    if total is None:
        raise ValueError("the Gram matrix of no readers: the stream enters nowhere")
    return total.triu_() + total.triu(1).T


def cached(
    key: str, width: int, count: int, form: Callable[[], Float[Tensor, "width width"]]
) -> Float[Tensor, "width width"]:
    """What `form` gives, from the cache if it was formed before and is costly to form.

    `count`: how many matrices it sums over.
    """
    if count * width**2 < WORTH:
        return form()
    path = cache_folder() / f"gram-{key}.safetensors"
    found = _read(path, width)
    if found is None:
        found = form()
        _write(path, found)
    return found


def _read(path: Path, width: int) -> Tensor | None:
    """The cached matrix; None where there is none or it is no such matrix."""
    try:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor("gram")
    except (OSError, SafetensorError):
        return None
    whole = found.shape == (width, width) and found.dtype == torch.float64
    return found if whole and found.isfinite().all() else None


def _write(path: Path, found: Tensor) -> None:
    """Keep it; a folder that cannot be written costs time later, not the work now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({"gram": found}))
    except OSError:
        return
