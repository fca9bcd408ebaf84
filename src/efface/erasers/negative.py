"""Negative prompt: guidance away from the concept in place of the empty prompt. A baseline.

Classifier-free guidance, Ho and Salimans, arXiv 2207.12598, Eq. 6, with the prediction under the
concept as the unconditional one: e_c + s (e_p − e_c). Nothing is trained and no weight changes; the
patch is the concept's rows, put where the pipeline calls its denoiser.

Deviations from the authors' code: none of its own; it is what pipelines call a negative prompt. A
negative prompt of the user's gives way to it. It is no erasure of a model: unguided drawing, and
whoever leaves the patch out, see the concept.
"""

from dataclasses import asdict, dataclass

from torch import Generator

from efface.backbone import Backbone
from efface.core import Concept, OnStep
from efface.guidance import guiding
from efface.patch import Patch


@dataclass(frozen=True)
class Negative:
    """It has no settings."""

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """Encodes the concept; nothing is random."""
        return guiding(model, concept, "negative", {"name": "negative", **asdict(self)}, {})
