"""A LoRA's file, in diffusers' names, as edits of the denoiser: W becomes W + up · down."""

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from efface.core import Edit, EffaceError

if TYPE_CHECKING:
    from torch import Tensor

UP, DOWN = ".lora_B.weight", ".lora_A.weight"
"""What diffusers calls the factors of a module's matrix."""


def edits_of(path: Path) -> tuple[Edit, ...]:
    """What a file adds to which matrices."""
    try:
        held: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EffaceError(
            f"{path}, weights that an attack trained, cannot be read ({error}): run the audit in "
            "a new folder"
        ) from error
    names = [name.removesuffix(UP) for name in held if name.endswith(UP)]
    return tuple(
        Edit(f"{name.replace('.', '/', 1)}.weight", "add", held[name + UP], held[name + DOWN])
        for name in names
    )
