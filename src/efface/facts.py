"""What text-side maps do, measured without drawing: certificate and drift."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from efface.certificate import Adversary, Certificate, Drift
from efface.core import Backbone, Concept
from efface.linalg import LowRank
from efface.phrases import judged, unseen
from efface.tokens import Pairs, aligned, kept


class Ruler:
    """Measures maps of one stream for one model and concept; what they share is worked out once."""

    def __init__(self, model: Backbone, concept: Concept, stream: str = "text") -> None:
        self._model, self._concept, self._stream = model, concept, stream
        self.gram = model.gram(stream)
        self.adversary = lru_cache(maxsize=1)(self._adversary)
        self.certificate = lru_cache(maxsize=1)(self._certificate)

    @cached_property
    def judged(self) -> Pairs:
        """The concept's rows as it may be said, last word to end, with those they should become."""
        source, target = (
            self._model.encode(texts, self._stream)
            for texts in zip(*judged(self._concept), strict=True)
        )
        return aligned(source, target, "last_to_end")

    @cached_property
    def _kept(self) -> Drift | None:
        """Of kept words in a phrasing no fit has seen; None where nothing is kept."""
        if not (prompts := unseen(self._concept)):
            return None
        return Drift(self.gram, kept(self._model.encode(prompts, self._stream), "all"))

    def _adversary(self, edit: LowRank) -> Adversary:
        return Adversary(edit, self.gram, self._model.ellipsoids(self._stream))

    def _certificate(self, edit: LowRank) -> Certificate:
        """How near any row of the encoder comes to the concept under `edit`."""
        return self.adversary(edit).certificate(*self.judged)

    def drift(self, edit: LowRank) -> float | None:
        """How far `edit` moves the kept words; None where nothing is kept."""
        return None if self._kept is None else self._kept.of(edit)

    def facts(self, edit: LowRank) -> dict[str, Any]:
        """What a patch's header says of its map."""
        found = self.certificate(edit)
        return {
            "certificate": {"min": found.min, "mean": found.mean, "rows": len(found.values)},
            "drift": self.drift(edit),
            "rank": edit.a.shape[1],
        }


def summary(streams: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of all streams: the weakest certificate, the largest drift, and each stream's own.

    An attacker may take the stream that gives way, so no mean over streams is taken.
    """
    if len(streams) == 1:
        [only] = streams.values()
        return dict(only)
    weakest = min(streams.values(), key=lambda f: _least(f["certificate"]["min"]))
    drifts = [f["drift"] for f in streams.values() if f["drift"] is not None]
    return {
        **weakest,
        "drift": max(drifts, default=None),
        "rank": sum(f["rank"] for f in streams.values()),
        "streams": {name: dict(f) for name, f in streams.items()},
    }


def _least(value: float | None) -> float:
    return float("inf") if value is None else value
