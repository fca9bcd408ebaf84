"""Any local image model as a feature extractor: what its last layer is given of a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from efface.backbones.local import open_local, placed, preparation
from efface.core import EffaceError

Extract = Callable[[Sequence[Image]], np.ndarray]
"""Pictures to features, a row a picture."""
BATCH = 64


def extractor(folder: Path, device: str = "cpu") -> Extract:
    """Of a CLIP its projected, unit-length embeddings; of a classifier what its last layer reads.

    Of any other image model (DINOv2, say) its pooled output. Pictures are prepared as the folder's
    own processor says.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    from efface.backbones.clip import Clip

    if not (folder / "config.json").is_file():
        raise EffaceError(f"no image model at {folder}: give the folder of a classifier or a CLIP")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type == "clip":
        clip = Clip(folder, device)
        return lambda pictures: clip.pictures(pictures).double().numpy()
    classifies = any("ImageClassification" in name for name in config.architectures or ())
    loader: Any = AutoModelForImageClassification if classifies else AutoModel
    model = placed(open_local(folder, loader, "image model"), device)
    prepare = preparation(folder, model)
    read = _before_last if classifies else _pooled

    def extract(pictures: Sequence[Image]) -> np.ndarray:
        with torch.no_grad():
            rows = [
                read(model, prepare(pictures[i : i + BATCH]).to(model.device))
                for i in range(0, len(pictures), BATCH)
            ]
        return torch.cat(rows).double().cpu().numpy()

    return extract


def _pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The picture as one row."""
    found = model(pixel_values=pixels)
    if getattr(found, "pooler_output", None) is None:
        raise EffaceError(f"a {model.config.model_type} has no pooled output: give a classifier")
    pooled: torch.Tensor = found.pooler_output
    return pooled.flatten(1)


def _before_last(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the last linear layer is given, one row a picture."""
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    kept: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        model(pixel_values=pixels)
    finally:
        hook.remove()
    return kept[0].flatten(1)
