"""Patches as LoRA: for every changed matrix W, factors with up · down = W′ − W.

A prompt map needs no approximation: W T − W = (W a) bᵀ. Other changes are cut to a rank by
truncated SVD (Eckart and Young) and the error is told. Rank and alpha are equal, which means
strength 1 to every loader; matrices of lower rank are padded with zeros, since loaders disagree on
ranks that differ.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from efface.backbones.learnt import DOWN, UP
from efface.backbones.merge import Merge
from efface.backbones.model import Model
from efface.core import EffaceError, OnStep
from efface.patch import Patch, stack

DENSE_RANK = 64
"""Rank that a change without factors is cut to."""
ROUND_OFF = 1e-10
"""Singular values below this share of the largest are what arithmetic left, not the change's."""


class Factors(NamedTuple):
    """One matrix's change as up · down."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank width"]
    error: float
    """‖W′ − W − up · down‖ / ‖W′ − W‖, Frobenius."""


def factorise(
    model: Model, patches: Sequence[Patch], on_step: OnStep, rank: int = DENSE_RANK
) -> dict[str, Factors]:
    """Factors of every tensor that `patches` change, by component/name, all of one rank."""
    merge = Merge(patches, model.fingerprint, model.where, model.names)
    mapped = stack(patches).maps if not any(p.edits for p in patches) else ()
    maps = {m.encoder: m for m in mapped}
    found: dict[str, Factors] = {}
    names = sorted(merge.changed)
    for i, name in enumerate(names):
        on_step("factorising", i, len(names))
        old = model.weight(name).detach().cpu().double()
        if old.ndim != 2:
            raise EffaceError(
                f"the patch changes {name}, which is no matrix, and LoRA cannot hold it: "
                "export the whole model"
            )
        reader = model.where.get(name)
        if reader and reader.stream in maps:
            m, width = maps[reader.stream], reader.width or old.shape[1]
            down = pad(m.b.double().T, (0, old.shape[1] - width))
            found[name] = balanced(old[:, :width] @ m.a.double(), down)
        else:
            found[name] = truncated(merge.weight(name, old) - old, rank)
    on_step("factorising", len(names), len(names))
    return _of_one_rank(found)


def balanced(up: Float[Tensor, "out rank"], down: Float[Tensor, "rank width"]) -> Factors:
    """The same product from columns and rows of equal norms, which half precision holds best."""
    one, other = up.norm(dim=0), down.norm(dim=1)
    share = torch.where((one > 0) & (other > 0), (other / one).sqrt(), 1.0)
    return Factors(up * share, down / share[:, None], 0.0)


def truncated(change: Float[Tensor, "out width"], rank: int) -> Factors:
    """The nearest change of at most `rank`."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    kept = min(rank, int((values > ROUND_OFF * values[:1]).sum()))
    root = values[:kept].sqrt()
    lost, whole = values[kept:].norm(), values.norm()
    error = (lost / whole).item() if whole > 0 else 0.0
    return Factors(left[:, :kept] * root, root[:, None] * right[:kept], error)


def _of_one_rank(found: Mapping[str, Factors]) -> dict[str, Factors]:
    rank = max([1, *(len(f.down) for f in found.values())])
    return {
        name: Factors(pad(up, (0, rank - len(down))), pad(down, (0, 0, 0, rank - len(down))), error)
        for name, (up, down, error) in found.items()
    }


def diffusers_form(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Tensors for `pipe.load_lora_weights`: unet.(module).lora_A.weight, .lora_B.weight."""
    tensors: dict[str, Tensor] = {}
    for name, (up, down, _) in factors.items():
        module = name.replace("/", ".").removesuffix(".weight")
        tensors[module + DOWN] = down.float().contiguous()
        tensors[module + UP] = up.float().contiguous()
    return tensors


def kohya_form(factors: Mapping[str, Factors], modules: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors for WebUI and ComfyUI: lora_unet_(module).lora_down.weight, .lora_up.weight, .alpha.

    `modules`: the name of the tensor that the tools know, for each component/name.
    """
    tensors: dict[str, Tensor] = {}
    for name, (up, down, _) in factors.items():
        module = f"lora_unet_{modules[name].removesuffix('.weight').replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = down.float().contiguous()
        tensors[f"{module}.lora_up.weight"] = up.float().contiguous()
        tensors[f"{module}.alpha"] = torch.tensor(float(len(down)))
    return tensors
