"""The emoji judges: what thing, what style and what background a picture shows.

A judge is an ordinary image classifier whose labels read "group:name"; within a group one name
wins. Two come with the model, of different architectures and seeds. `tuning` is for choosing
settings and for attacks' feedback; numbers that are published come from `reporting`. A model that
draws the same things has them by naming that model: `judges.json`, {"model": "emoji"}.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from efface.backbones.checkpoint import Checkpoint, bundled, resolve
from efface.backbones.local import open_local, placed, preparation
from efface.core import EffaceError
from efface.watchers import Ranking


class Judge(Ranking):
    """One classifier with its label groups."""

    def __init__(
        self,
        folder: Path,
        threshold: float | None = None,
        top: int = 1,
        device: str = "cpu",
    ) -> None:
        from transformers import AutoModelForImageClassification

        model = open_local(folder, AutoModelForImageClassification, "image classifier")
        self.model: Any = placed(model, device)
        self._prepare = preparation(folder, self.model)
        labels = self.model.config.id2label
        self._groups: dict[str, list[int]] = {}
        spellings: dict[str, list[tuple[str, ...]]] = {}
        for i in range(len(labels)):
            group, ways = self.spell(str(labels[i]))
            self._groups.setdefault(group, []).append(i)
            spellings.setdefault(group, []).append(ways)
        super().__init__(spellings, threshold, top)

    def spell(self, label: str) -> tuple[str, tuple[str, ...]]:
        """A label's group and name."""
        group, _, name = label.partition(":")
        return group, (name,)

    def scores(self, pictures: Sequence[Image]) -> dict[str, Float[Tensor, "pictures names"]]:
        with torch.no_grad():
            pixels = self._prepare(pictures).to(self.model.device)
            logits = self.model(pixels).logits.float().cpu()
        return {g: logits[:, members].softmax(1) for g, members in self._groups.items()}


@dataclass(frozen=True)
class Bundled:
    """A judge of the model's own folder."""

    which: Literal["tuning", "reporting"] = "reporting"
    """Which of the two: numbers to be published come from `reporting`."""
    threshold: float | None = None
    """Probability that is a hit, 0 to 1; none: the likest of its group wins."""

    def open(self, model: str, words: Sequence[str], device: str) -> Judge:
        return Judge(self.weights(model)[0], self.threshold, device=device)

    def weights(self, model: str) -> tuple[Path, ...]:
        return (_folder(model, self.which),)


PRESETS = {"emoji-tuning": Bundled("tuning"), "emoji-reporting": Bundled()}


def tuning(source: str = "emoji") -> Judge:
    """The judge for tuning and feedback."""
    return Judge(_folder(source, "tuning"))


def reporting(source: str = "emoji") -> Judge:
    """The judge for numbers that are published."""
    return Judge(_folder(source, "reporting"))


def _folder(source: str, which: str) -> Path:
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
    folder = root / "judges" / which
    if not (folder / "config.json").is_file():
        raise EffaceError(
            f"no judge at {folder}: name another detector with --detector, or give a model folder "
            "that has one under judges/"
        )
    return folder
