"""Whose face a picture shows: any local classifier of identities.

ItD (arXiv:2503.09446, section 5) and MACE (arXiv:2403.06135) count what the GIPHY celebrity
detector recognises. A picture without a face is neither a hit nor erased: where the classifier has
a label for that and it is the likest, the verdict is "could not judge".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from efface.core import EffaceError, Verdict
from efface.detectors.classifier import LABEL, Labelled


class Identities(Labelled):
    """A classifier of identities, some labels of which say that there is no face."""

    def __init__(self, folder: Path, threshold: float | None, nobody: str, device: str) -> None:
        super().__init__(folder, threshold, device=device)
        said = {word.strip().lower() for word in nobody.split(",")}
        self.nobody = {
            name for ways in self.spellings.get(LABEL, ()) for name in ways if name.lower() in said
        }

    def verdict(self, row: Sequence[float], wanted: Sequence[int], group: str) -> Verdict:
        found = super().verdict(row, wanted, group)
        likest = max(found.labels, key=lambda name: found.labels[name])
        return replace(found, score=None, hit=None) if likest in self.nobody else found


@dataclass(frozen=True)
class Faces:
    """What the folder of a transformers classifier of faces says."""

    path: str = ""
    """Folder with config.json, weights and preprocessor_config.json."""
    threshold: float | None = None
    """Probability that is a hit, 0 to 1; none: the likest identity."""
    nobody: str = "no face, noface, nobody, none, background"
    """Labels that say there is no face, comma separated."""

    def open(self, model: str, words: Sequence[str], device: str) -> Identities:
        return Identities(self.weights(model)[0], self.threshold, self.nobody, device)

    def weights(self, model: str) -> tuple[Path, ...]:
        if not self.path:
            raise EffaceError("faces needs a classifier of identities: --detector faces:FOLDER")
        return (Path(self.path),)
