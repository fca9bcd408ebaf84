"""What a text-side map does, measured without drawing: certificate and drift."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from efface.certificate import Certificate, certificate, drift
from efface.core import Backbone, Concept
from efface.linalg import LowRank
from efface.tokens import Pairs, aligned

PHRASINGS = ("{}", "a {}", "a picture of a {}")
"""Ways to name the concept that the certificate covers."""
OTHER_PHRASING = "an image of a {}"
"""How kept words are put when drift is measured; fitting never uses it."""
SAMPLE = 32
"""Drift is measured on at most about this many of the kept words, evenly taken."""


class Ruler:
    """Measures maps for one model and concept; what they share is worked out once."""

    def __init__(self, model: Backbone, concept: Concept) -> None:
        self._model, self._concept = model, concept
        self.gram = model.gram()
        self.ellipsoid = model.ellipsoid()

    @cached_property
    def judged(self) -> Pairs:
        """The concept's rows in every phrasing, last word to end, with those they should become."""
        named = [
            (p.format(e), g)
            for e, g in zip(self._concept.erase, self._concept.goals(), strict=True)
            for p in PHRASINGS
        ]
        source = self._model.encode([s for s, _ in named])
        return aligned(source, self._model.encode([t for _, t in named]), "last_to_end")

    @cached_property
    def kept(self) -> Float[Tensor, "n width"] | None:
        """Rows of kept words in a phrasing no fit has seen; None where nothing is kept."""
        words = self._concept.keep[:: max(1, len(self._concept.keep) // SAMPLE)]
        if not words:
            return None
        return self._model.encode([OTHER_PHRASING.format(w) for w in words]).states.flatten(0, 1)

    def certificate(self, edit: LowRank) -> Certificate:
        """How near any row of the encoder comes to the concept under `edit`."""
        return certificate(edit, self.gram, self.ellipsoid, *self.judged)

    def drift(self, edit: LowRank) -> float | None:
        """How far `edit` moves the kept words; None where nothing is kept."""
        return None if self.kept is None else drift(edit, self.gram, self.kept)

    def facts(self, edit: LowRank) -> Mapping[str, Any]:
        """What a patch's header says of its map."""
        found = self.certificate(edit)
        return {
            "certificate": {"min": found.min, "mean": found.mean, "rows": len(found.values)},
            "drift": self.drift(edit),
            "rank": edit.a.shape[1],
        }
