"""A local CLIP as both of its halves: pictures and texts to unit-length rows of one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.backbones.local import open_local, placed, preparation
from efface.core import EffaceError

BATCH = 64


class Clip:
    """One CLIP (arXiv:2103.00020)."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        self.model: Any = open_local(folder, CLIPModel, "CLIP")
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "clip":
            raise EffaceError(f"{folder} holds a {kind}, not a CLIP: give the folder of a CLIP")
        placed(self.model, device)
        self.prepare = preparation(folder, self.model)
        self.folder = folder
        self._tokenizer = AutoTokenizer

    def pictures(self, given: Sequence[Image]) -> Float[Tensor, "pictures width"]:
        """Embeddings of pictures, on the CPU."""
        found = []
        with torch.no_grad():
            for i in range(0, len(given), BATCH):
                pixels = self.prepare(given[i : i + BATCH]).to(self.model.device)
                pooled = self.model.vision_model(pixel_values=pixels).pooler_output
                found.append(self.model.visual_projection(pooled))
        return torch.nn.functional.normalize(torch.cat(found).cpu(), dim=1)

    def texts(self, given: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Embeddings of texts, on the CPU; longer ones are cut."""
        try:
            tokenizer: Any = self._tokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise EffaceError(
                f"{self.folder} has no tokenizer: download the CLIP with its tokenizer.json"
            ) from error
        most = self.model.config.text_config.max_position_embeddings
        found = []
        with torch.no_grad():
            for i in range(0, len(given), BATCH):
                read = tokenizer(
                    list(given[i : i + BATCH]),
                    padding="max_length",
                    max_length=most,
                    truncation=True,
                    return_tensors="pt",
                ).to(self.model.device)
                pooled = self.model.text_model(**read).pooler_output
                found.append(self.model.text_projection(pooled))
        return torch.nn.functional.normalize(torch.cat(found).cpu(), dim=1)

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return float(self.model.logit_scale.detach().exp())
