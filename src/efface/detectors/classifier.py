"""Any local image classifier: of things (ImageNet), of styles, of whatever its labels name.

ESD, RECE and UnlearnDiffAtk judge objects by the best label of a ResNet-50, styles by the best or
the best three of a ViT. Labels that give several words for one thing, as ImageNet's "tench, Tinca
tinca", are known by each. Labels that read "group:name" compete within their group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efface.core import EffaceError
from efface.detectors.judge import Judge

LABEL = "label"
"""Group of labels that name none."""


class Labelled(Judge):
    """A classifier whose labels need no groups."""

    def spell(self, label: str) -> tuple[str, tuple[str, ...]]:
        if ":" in label:
            return super().spell(label)
        plain = label.replace("_", " ")
        ways = tuple(dict.fromkeys(way.strip() for way in plain.split(",") if way.strip()))
        return LABEL, ways or (plain,)


@dataclass(frozen=True)
class Classifier:
    """What the folder of a transformers image classifier says."""

    path: str = ""
    """Folder with config.json, weights and preprocessor_config.json."""
    threshold: float | None = None
    """Probability that is a hit, 0 to 1; none: to be among the `top` likest labels."""
    top: int = 1
    """How many of the likest labels count as seen, 1 or more. Raising it raises rates."""

    def open(self, model: str, words: Sequence[str], device: str) -> Judge:
        return Labelled(self.weights(model)[0], self.threshold, self.top, device)

    def weights(self, model: str) -> tuple[Path, ...]:
        if not self.path:
            raise EffaceError("classifier needs a model: --detector classifier:FOLDER")
        return (Path(self.path),)


PRESETS = {
    "classifier-top3": Classifier(top=3),
    "classifier-top5": Classifier(top=5),
}
