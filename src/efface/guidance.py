"""Patches of guidance-time methods: a guide at the denoiser's door and the concept's own rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from efface.backbone import Backbone
from efface.core import Concept, Gate
from efface.gates.guides import MASK
from efface.patch import Patch
from efface.tokens import check_spoken


def guiding(
    model: Backbone,
    concept: Concept,
    kind: str,
    story: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Patch:
    """The patch that guides away from all phrases at once; `toward` and `keep` have no part."""
    prompt = ", ".join(concept.erase)
    told = {stream: model.encode([prompt], stream) for stream in model.streams}
    check_spoken(told[model.streams[0]], (prompt,))
    tensors = {stream: encoded.states for stream, encoded in told.items()}
    text = told["text"]
    places = torch.arange(text.states.shape[1])
    held = torch.zeros(1, len(places), dtype=torch.bool)
    for start, end in zip(text.starts, text.ends[0].tolist(), strict=True):
        held |= (places >= start) & (places < end)
    reader, _ = next(iter(model.readers()))
    gate = Gate(f"{reader.partition('/')[0]}/", kind, "", settings, {**tensors, MASK: held})
    return Patch(replace(concept, toward=("",)), story, model.fingerprint, gates=(gate,))
