"""How far the erased model's pictures of what must stay are from the base model's, same seeds.

Or from a folder of pictures: papers measure FID of COCO's captions against COCO's photographs.

FID (arXiv:1706.08500), KID (arXiv:1801.01401), CMMD (arXiv:2401.09603) and, picture by picture, the
cosine distance of features, in the manner of LPIPS (arXiv:1801.03924) with one layer. Any local
image model is the extractor; numbers of two extractors are never to be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from efface.backbones.features import BATCH, Extract, extractor
from efface.core import ACROSS, KEPT, EffaceError, Estimate, Row
from efface.distances import cmmd, fid, kid
from efface.outcomes import same
from efface.stats import of_samples

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class _OfSets(ABC):
    """A distance of two sets of pictures."""

    run: str
    """Folder of the run, where the pictures are."""
    extractor: str
    """Folder of a local image model."""
    reference: str = ""
    """Folder of pictures to be compared with; empty: the base model's."""
    of_base: bool = False
    """Whether the base model's pictures are compared with the folder."""
    device: str = "cpu"
    """Where the extractor runs."""
    unit: ClassVar[str]

    @abstractmethod
    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        """Between two sets of features."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        if self.reference:
            return self._from_reference(base if self.of_base else rows)
        pairs, skipped = _pairs(rows, base)
        if len(pairs) < 2:
            return Estimate(None, None, 0, skipped, self.unit)
        after, before = _features(self.run, extractor(Path(self.extractor), self.device), pairs)
        return Estimate(self.distance(after, before), None, len(pairs), skipped, self.unit)

    def _from_reference(self, rows: Sequence[Row]) -> Estimate:
        asked = [row.image for row in rows if row.attack in (KEPT, ACROSS)]
        ours = sorted(image for image in asked if image is not None)
        theirs = pictures_in(Path(self.reference))
        if len(ours) < 2:
            return Estimate(None, None, 0, len(asked), self.unit)
        extract = extractor(Path(self.extractor), self.device)
        found = extract([_opened(Path(self.run) / path) for path in ours])
        known = np.concatenate(
            [
                extract([_opened(p) for p in theirs[i : i + BATCH]])
                for i in range(0, len(theirs), BATCH)
            ]
        )
        skipped = len(asked) - len(ours)
        return Estimate(self.distance(found, known), None, len(ours), skipped, self.unit)


@dataclass(frozen=True)
class FID(_OfSets):
    """Fréchet distance; for thousands of pictures."""

    unit = "FID"

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        return fid(one, other)


@dataclass(frozen=True)
class KID(_OfSets):
    """Unbiased kernel distance; may be below 0 where there is none."""

    unit = "KID"

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        return kid(one, other)


@dataclass(frozen=True)
class CMMD(_OfSets):
    """Kernel distance for CLIP embeddings."""

    unit = "CMMD"

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        return cmmd(one, other)


@dataclass(frozen=True)
class PictureChange:
    """Mean of 1 − cosine of the features of the same picture, erased and base."""

    run: str
    """Folder of the run, where the pictures are."""
    extractor: str
    """Folder of a local image model."""
    device: str = "cpu"
    """Where the extractor runs."""

    def __call__(self, rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
        pairs, skipped = _pairs(rows, base)
        if not pairs:
            return Estimate(None, None, 0, skipped, "1 - cosine")
        after, before = _features(self.run, extractor(Path(self.extractor), self.device), pairs)
        lengths = np.linalg.norm(after, axis=1) * np.linalg.norm(before, axis=1)
        apart = 1 - (after * before).sum(1) / lengths
        return of_samples(
            np.mean, [apart.tolist()], paired=True, skipped=skipped, unit="1 - cosine"
        )


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder; one sentence if there are fewer than two."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)
    if len(found) < 2:
        raise EffaceError(f"{folder} holds {len(found)} pictures: give a folder of PNG or JPEG")
    return found


def _pairs(rows: Sequence[Row], base: Sequence[Row]) -> tuple[list[tuple[Path, Path]], int]:
    """Pictures of what must stay, erased and base, of the roots that have both."""
    kinds = (KEPT, ACROSS)
    before = {(r.attack, same(r.root)): r.image for r in base if r.attack in kinds}
    ours = [(r.image, before.get((r.attack, same(r.root)))) for r in rows if r.attack in kinds]
    both = sorted((a, b) for a, b in ours if a is not None and b is not None)
    return both, len(ours) - len(both)


def _features(
    run: str, extract: Extract, pairs: Sequence[tuple[Path, Path]]
) -> tuple[np.ndarray, np.ndarray]:
    def of(side: int) -> np.ndarray:
        return extract([_opened(Path(run) / pair[side]) for pair in pairs])

    return of(0), of(1)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")
