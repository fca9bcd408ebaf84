"""Any local image model as a feature extractor: what its last layer is given of a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from efface.core import EffaceError

Extract = Callable[[Sequence[Image]], np.ndarray]
"""Pictures to features, a row a picture."""
BATCH = 64


def extractor(folder: Path) -> Extract:
    """Of a CLIP: its projected, unit-length embeddings; of a classifier: what its last layer reads.

    Pictures are prepared as the folder's preprocessor says; where it has none, scaled to -1 to 1 in
    the size that the model was made for.
    """
    from transformers import AutoConfig, AutoModelForImageClassification, CLIPModel

    if not (folder / "config.json").is_file():
        raise EffaceError(f"no image model at {folder}: give the folder of a classifier or a CLIP")
    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    loader: Any = CLIPModel if kind == "clip" else AutoModelForImageClassification
    model = loader.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    ).eval()
    prepare = _preparation(folder, model)

    def read(pixels: torch.Tensor) -> torch.Tensor:
        if kind == "clip":
            found = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
            return torch.nn.functional.normalize(found, dim=1)
        return _before_last(model, pixels)

    def extract(pictures: Sequence[Image]) -> np.ndarray:
        with torch.no_grad():
            rows = [read(prepare(pictures[i : i + BATCH])) for i in range(0, len(pictures), BATCH)]
        return torch.cat(rows).double().numpy()

    return extract


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


def _preparation(folder: Path, model: Any) -> Callable[[Sequence[Image]], torch.Tensor]:
    """Pictures to what the model reads."""
    side = getattr(getattr(model.config, "vision_config", model.config), "image_size", None) or 64
    told = folder / "preprocessor_config.json"
    mean, spread = [0.5] * 3, [0.5] * 3
    if told.is_file():
        import json

        settings = json.loads(told.read_text())
        mean, spread = settings.get("image_mean", mean), settings.get("image_std", spread)
        size = settings.get("crop_size") or settings.get("size") or side
        side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]

    def prepare(pictures: Sequence[Image]) -> torch.Tensor:
        square = [np.asarray(p.convert("RGB").resize((side, side))) for p in pictures]
        pixels = torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(spread).view(3, 1, 1)

    return prepare
