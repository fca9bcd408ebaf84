"""Patches as LoRA: for every changed matrix W, factors with up · down = W′ − W.

A prompt map needs no approximation: W T − W = (W a) bᵀ, so `up` is W a and every matrix of a
stream shares `down` = bᵀ. Other changes are cut to a rank by truncated SVD (Eckart and Young) and
the error is told. Rank and alpha are equal, which means strength 1 to every loader; matrices of
lower rank are padded with zeros, since loaders disagree on ranks that differ.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.backbones.merge import Merge
from efface.backbones.model import Model
from efface.core import EffaceError
from efface.patch import Patch, stack

DENSE_RANK = 64
"""Rank that a change without factors is cut to."""


class Factors(NamedTuple):
    """One matrix's change as up · down."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank width"]
    error: float
    """‖W′ − W − up · down‖ / ‖W′ − W‖, Frobenius."""


def factorise(
    model: Model,
    patches: Sequence[Patch],
    weight: Callable[[str], Tensor],
    names: Sequence[str],
    rank: int = DENSE_RANK,
) -> dict[str, Factors]:
    """Factors of every tensor that `patches` change, by component/name.

    `weight` fetches a tensor of the denoiser, `names` are all it has.
    """
    merge = Merge(patches, model.fingerprint, model.where, names)
    mapped = stack(patches).maps if not any(p.edits for p in patches) else ()
    maps = {m.encoder: m for m in mapped}
    found: dict[str, Factors] = {}
    for name in sorted(merge.changed):
        old = weight(name).detach().cpu()
        if old.ndim != 2:
            raise EffaceError(f"the patch changes {name}, which is no matrix: LoRA cannot hold it")
        reader = model.where.get(name)
        if reader and reader.stream in maps:
            m, width = maps[reader.stream], reader.width or old.shape[1]
            down = torch.nn.functional.pad(m.b.double().T, (0, old.shape[1] - width))
            found[name] = Factors(old[:, :width].double() @ m.a.double(), down, 0.0)
        else:
            wide = old.double()
            found[name] = truncated(merge.weight(name, wide) - wide, rank)
    return _of_one_rank(found)


def truncated(change: Float[Tensor, "out width"], rank: int) -> Factors:
    """The nearest change of at most `rank`."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    root = values[:rank].sqrt()
    lost, whole = values[rank:].norm(), values.norm()
    return Factors(
        left[:, :rank] * root, root[:, None] * right[:rank], (lost / whole).item() if whole else 0.0
    )


def _of_one_rank(found: Mapping[str, Factors]) -> dict[str, Factors]:
    rank = max((len(f.down) for f in found.values()), default=0)
    pad = torch.nn.functional.pad
    return {
        name: Factors(pad(up, (0, rank - len(down))), pad(down, (0, 0, 0, rank - len(down))), error)
        for name, (up, down, error) in found.items()
    }


def diffusers_form(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Tensors for `pipe.load_lora_weights`: unet.(module).lora_A.weight, .lora_B.weight."""
    tensors: dict[str, Tensor] = {}
    for name, (up, down, _) in factors.items():
        module = name.replace("/", ".").removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = down.float().contiguous()
        tensors[f"{module}.lora_B.weight"] = up.float().contiguous()
    return tensors


def kohya_form(factors: Mapping[str, Factors], ldm: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors for WebUI and ComfyUI: lora_unet_(module).lora_down.weight, .lora_up.weight, .alpha.

    `ldm` turns a denoiser's tensor name into the one of the original single-file layout.
    """
    tensors: dict[str, Tensor] = {}
    for name, (up, down, _) in factors.items():
        bare = ldm(name.partition("/")[2]).removesuffix(".weight")
        module = bare.removeprefix("model.diffusion_model.").replace(".", "_")
        tensors[f"lora_unet_{module}.lora_down.weight"] = down.float().contiguous()
        tensors[f"lora_unet_{module}.lora_up.weight"] = up.float().contiguous()
        tensors[f"lora_unet_{module}.alpha"] = torch.tensor(float(len(down)))
    return tensors
