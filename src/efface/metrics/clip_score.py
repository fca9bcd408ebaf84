"""How well pictures match what was asked: CLIP score (arXiv:2104.08718, with its w = 100).

100 · max(cos, 0) of picture and prompt in any local CLIP, averaged. Papers use ViT-B/32 or L/14,
and write 31 or 0.31: numbers of two CLIPs, or of two lists of prompts, are never to be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from efface.backbones.clip import Clip
from efface.core import ACROSS, KEPT, Estimate, Row
from efface.stats import of_samples

UNIT = "100 cos"


@dataclass(frozen=True)
class ClipScore:
    """Of the erased model's pictures of what must stay, or of other rows."""

    run: str
    """Folder of the run, where the pictures are."""
    clip: str
    """Folder of a CLIP, with its tokenizer."""
    kind: str = f"{KEPT},{ACROSS}"
    """Which rows: names of attacks, "kept", "across", comma separated."""
    of_base: bool = False
    """Of the base model instead."""
    device: str = "cpu"
    """Where the CLIP runs."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        kinds = self.kind.split(",")
        asked = [row for row in (base if self.of_base else rows) if row.attack in kinds]
        drawn = sorted((row.image, row.root.prompt) for row in asked if row.image is not None)
        if not drawn:
            return Estimate(None, None, 0, len(asked), UNIT)
        clip = Clip(Path(self.clip), self.device)
        seen = clip.pictures([_opened(Path(self.run) / image) for image, _ in drawn])
        cosines = (seen * clip.texts([prompt for _, prompt in drawn])).sum(1).clamp(min=0)
        return of_samples(
            np.mean,
            [(100 * cosines).tolist()],
            paired=True,
            skipped=len(asked) - len(drawn),
            unit=UNIT,
        )


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")
