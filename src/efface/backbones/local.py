"""Image models of the user's own disk: how they are opened, and how pictures are made ready."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor

from efface.core import EffaceError

Prepare = Callable[[Sequence[Image]], Float[Tensor, "pictures 3 high wide"]]
TOLD = ("preprocessor_config.json", "processor_config.json")
"""Where a folder says how pictures are made ready."""
WEIGHTS = (".safetensors", ".onnx")


def open_local(folder: Path, loader: Any, what: str) -> Any:
    """A transformers model in float32; one sentence where the folder holds no such model."""
    if not (folder / "config.json").is_file():
        raise EffaceError(f"no {what} at {folder}: give its folder, with config.json and weights")
    try:
        model = loader.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        told = f"{folder} does not load as {what} ({reason}): download it again"
        raise EffaceError(told) from error
    return model.eval()


def placed(what: Any, device: str) -> Any:
    """A pipeline or a model on a device, or one sentence if there is none such."""
    try:
        return what.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EffaceError(f"no device {device!r} here ({reason}): try cpu or cuda") from error


def preparation(folder: Path, model: Any) -> Prepare:
    """Pictures to what the model reads, by the folder's own processor.

    A folder without one gets pictures in the size that the model was made for, scaled to -1 to 1.
    """
    if not any((folder / name).is_file() for name in TOLD):
        side = getattr(getattr(model.config, "vision_config", model.config), "image_size", None)
        return lambda pictures: _plain(pictures, side or 64)
    from transformers import AutoImageProcessor

    try:
        # Pillow's arithmetic wherever it runs: with torchvision there, its own would be taken.
        processor: Any = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, backend="pil"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EffaceError(
            f"{folder} does not say how pictures are made ready ({' '.join(str(error).split())}): "
            "download it again"
        ) from error

    def prepare(pictures: Sequence[Image]) -> Tensor:
        read = processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")
        pixels: Tensor = read["pixel_values"]
        return pixels.float()

    return prepare


def _plain(pictures: Sequence[Image], side: int) -> Tensor:
    square = [np.asarray(p.convert("RGB").resize((side, side))) for p in pictures]
    return torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).float() / 127.5 - 1


def fingerprint_of(*places: Path) -> str:
    """SHA-256 of the weights in folders, and of files."""
    told = hashlib.sha256()
    for place in places:
        inside = place.iterdir() if place.is_dir() else ()
        for path in sorted(p for p in inside if p.suffix in WEIGHTS) or [place]:
            with path.open("rb") as file:
                told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()
