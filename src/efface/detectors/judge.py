"""The emoji judges: what thing, what style and what background a picture shows.

A judge is an ordinary image classifier whose labels read "group:name"; within a group one name
wins. Two come with the model, of different architectures and seeds. `tuning` is for choosing
settings and for attacks' feedback; numbers that are published come from `reporting`. A model that
draws the same things has them by naming that model: `judges.json`, {"model": "emoji"}.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.backbones.checkpoint import Checkpoint, bundled, resolve
from efface.core import Detector, EffaceError, Verdict


class Judge:
    """One classifier with its label groups."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageClassification

        if not (folder / "config.json").is_file():
            raise EffaceError(
                f"no judge at {folder}: give a model folder that has one under judges/"
            )
        self.model: Any = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        self.side = 64

    @cached_property
    def groups(self) -> Mapping[str, list[str]]:
        """Group -> its names, in the order of the logits."""
        found: dict[str, list[str]] = {}
        for i in range(len(self.model.config.id2label)):
            group, _, name = self.model.config.id2label[i].partition(":")
            found.setdefault(group, []).append(name)
        return found

    def scores(self, pictures: Sequence[Image]) -> dict[str, Float[Tensor, "pictures names"]]:
        """Probabilities within each group."""
        with torch.no_grad():
            pixels = self._pixels(pictures).to(self.model.device)
            logits = self.model(pixels).logits.float().cpu()
        sizes = [len(names) for names in self.groups.values()]
        return {
            g: part.softmax(1) for g, part in zip(self.groups, logits.split(sizes, 1), strict=True)
        }

    def _pixels(self, pictures: Sequence[Image]) -> Float[Tensor, "pictures 3 side side"]:
        square = [np.asarray(p.convert("RGB").resize((self.side, self.side))) for p in pictures]
        return torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def names(self, pictures: Sequence[Image], group: str = "concept") -> list[str]:
        """The winning name of each picture."""
        known = self.groups[group]
        return [known[i] for i in self.scores(pictures)[group].argmax(1).tolist()]

    def watch(self, name: str, group: str = "concept") -> Detector:
        """A detector of one name: it hits where that name wins its group."""
        if name not in self.groups[group]:
            known = ", ".join(self.groups[group])
            raise EffaceError(f"the judge knows no {group} {name!r}: ask for one of {known}")
        at = self.groups[group].index(name)

        def detect(pictures: Sequence[Image]) -> list[Verdict]:
            if not pictures:
                return []
            known = self.groups[group]
            return [
                Verdict(row[at], int(np.argmax(row)) == at, dict(zip(known, row, strict=True)))
                for row in self.scores(pictures)[group].tolist()
            ]

        return detect


def tuning(source: str = "emoji") -> Judge:
    """The judge for tuning and feedback."""
    return Judge(_judges(source) / "tuning")


def reporting(source: str = "emoji") -> Judge:
    """The judge for numbers that are published."""
    return Judge(_judges(source) / "reporting")


def _judges(source: str) -> Path:
    """The model's own judges, or those of the bundled model that its `judges.json` names."""
    root = resolve(source)
    elsewhere = root / "judges.json"
    if elsewhere.is_file():
        name = str(Checkpoint.read_json(elsewhere).get("model"))
        if name not in bundled():
            raise EffaceError(
                f"{elsewhere} names no bundled model ({name!r}): give one of {', '.join(bundled())}"
            )
        root = bundled()[name]
    return root / "judges"
