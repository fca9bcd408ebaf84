"""Trained methods in a second on the random pipeline: what their tests share."""

from collections.abc import Callable
from typing import Any

from torch import Generator

from efface.backbones.model import Model
from efface.core import Concept, quiet
from efface.erasers import find
from efface.patch import Patch

CONCEPT = Concept("cat", ("cat", "a cat"), keep=("house", "tree"))
SHORT: dict[str, Any] = {
    "drawings": 2,
    "drawing_steps": 4,
    "keep_drawings": 4,
    "batch": 2,
    "rate": 1e-3,
}
Told = Callable[[str, int, int], None]


def fit(
    method: str,
    model: Model,
    concept: Concept = CONCEPT,
    seed: int = 0,
    on_step: Told = quiet,
    **settings: Any,
) -> Patch:
    """A patch by a few steps."""
    eraser: Any = find(method)(**{**SHORT, **settings})
    patch: Patch = eraser.fit(model, concept, Generator().manual_seed(seed), on_step)
    return patch
