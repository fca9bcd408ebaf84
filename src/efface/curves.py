"""What a patch's map costs and buys, without drawing: along its strength, and along the norm."""

from typing import Any

import torch

from efface.backbones.model import Model
from efface.certificate import Recovery, recovery_curve
from efface.core import EffaceError, same_base
from efface.facts import Ruler
from efface.linalg import LowRank
from efface.patch import Patch

RIDGES = torch.logspace(-8, 2, 41, dtype=torch.float64).tolist()
"""Regularisers swept, as shares of the mean eigenvalue of G."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the patch at which certificate and drift are measured."""


def only_map(patch: Patch) -> LowRank | None:
    """The one map of the text that such curves are of; None where a patch is more than that."""
    maps = [LowRank(m.a, m.b) for m in patch.maps if m.encoder == "text"]
    return maps[0] if len(maps) == 1 and not patch.edits and not patch.gates else None


def along_strength(full: LowRank, ruler: Ruler) -> list[dict[str, float | None]]:
    """Least certificate and drift at shares of a map."""
    found = []
    for strength in STRENGTHS:
        edit = full.scale(strength) if strength != 1 else full
        least, drift = ruler.certificate(edit).min, ruler.drift(edit)
        found.append({"strength": strength, "certificate": least, "drift": drift})
    return found


def along_norm(patch: Patch, full: LowRank, model: Model, ruler: Ruler) -> Recovery:
    """Residual and norm of every judged row of the concept, one line a regulariser."""
    if not same_base(patch.base, model.fingerprint):
        raise EffaceError(
            f"this patch was fitted on base {patch.base} but the model is {model.fingerprint}: "
            "give the model it was made for"
        )
    gram, pairs = ruler.gram, ruler.judged
    if len(gram) != len(full.a):
        raise EffaceError(
            f"the patch maps rows of {len(full.a)}, the model has rows of {len(gram)}"
        )
    judged = ruler.certificate(full).rows
    scale = gram.diagonal().mean().item()
    return recovery_curve(full, gram, pairs.rows[judged], [r * scale for r in RIDGES])


def curves(patch: Patch, model: Model) -> dict[str, Any] | None:
    """Both, as a run keeps them: medians over rows along the norm; None for other patches."""
    full = only_map(patch)
    if full is None:
        return None
    ruler = Ruler(model, patch.concept)
    by_strength = along_strength(full, ruler)
    swept = along_norm(patch, full, model, ruler)  # after it: its last certificate is this one's
    medians = [x.median(1).values.tolist() for x in (swept.norm, swept.residual)]
    return {
        "strength": by_strength,
        "recovery": [{"norm": norm, "residual": left} for norm, left in zip(*medians, strict=True)],
    }
