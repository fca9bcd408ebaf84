"""What a text-side map did, measured without drawing: certificate on the concept, drift on the rest."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from efface.certificate import certificate, drift
from efface.core import Backbone, Concept
from efface.linalg import LowRank
from efface.tokens import Pairs, aligned

PHRASINGS = ("{}", "a {}", "a picture of a {}")
"""Ways to name the concept that the certificate covers."""
OTHER_PHRASING = "an image of a {}"
"""How kept words are put when drift is measured; fitting never uses it."""


def judged_pairs(model: Backbone, concept: Concept) -> Pairs:
    """Rows of every phrasing of the concept from its last word on, with the rows they should become."""
    named = [
        (p.format(e), g)
        for e, g in zip(concept.erase, concept.goals(), strict=True)
        for p in PHRASINGS
    ]
    source, target = model.encode([s for s, _ in named]), model.encode([t for _, t in named])
    return aligned(source, target, "last_to_end")


def measure(
    model: Backbone, concept: Concept, edit: LowRank, gram: Float[Tensor, "width width"]
) -> dict[str, Any]:
    """Certificate (least and mean over rows) and drift over the kept words; None where nothing is kept."""
    found = certificate(edit, gram, model.ellipsoid(), *judged_pairs(model, concept))
    return {
        "certificate": {"min": found.min, "mean": found.mean, "rows": len(found.values)},
        "drift": kept_drift(model, concept, edit, gram),
        "rank": edit.a.shape[1],
    }


def kept_drift(
    model: Backbone, concept: Concept, edit: LowRank, gram: Float[Tensor, "width width"]
) -> float | None:
    """Drift over the kept words in a phrasing no fit has seen."""
    if not concept.keep:
        return None
    rows = model.encode([OTHER_PHRASING.format(k) for k in concept.keep]).states.flatten(0, 1)
    return drift(edit, gram, rows)
