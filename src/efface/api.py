"""The short way: erase, load, apply, draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.backbones.model import Model, open_model
from efface.core import Case, Concept, EffaceError, OnStep
from efface.erasers import build
from efface.patch import Patch, load, stack

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

__all__ = ["apply", "draw", "erase", "load", "stack"]

NEAR = 0.9
"""Cosine above which a word to keep means the erased concept itself."""


def quiet(what: str, step: int, of: int) -> None:
    """Report no progress."""


def erase(
    source: "str | Path | DiffusionPipeline",
    *concepts: str,
    toward: str | Sequence[str] = "",
    keep: Sequence[str] | None = None,
    method: str = "rece",
    preset: str | None = None,
    seed: int = 0,
    on_step: OnStep = quiet,
    **settings: Any,
) -> Patch:
    """Fit the patch that erases `concepts` from a model; the model is left alone.

    `source`: "emoji", a diffusers folder, a hub id or a loaded pipeline. `toward`: what the concepts become,
    "" for nothing in particular. `keep`: phrases that must not change; None means the model's own list of
    everyday words, less those that mean the concept. `settings`: fields of the method's dataclass.
    """
    eraser = build(method, preset, **settings)
    model = open_model(source)
    kept = everyday(model, concepts) if keep is None else tuple(keep)
    goals = (toward,) if isinstance(toward, str) else tuple(toward)
    concept = Concept(", ".join(concepts), tuple(concepts), goals, kept)
    return eraser.fit(model, concept, torch.Generator().manual_seed(seed), on_step)


def everyday(model: Model, concepts: Sequence[str]) -> tuple[str, ...]:
    """The model's everyday words less those that mean, or nearly mean, one of the concepts.

    Meaning is the last row of the padded prompt less that of the empty prompt.
    """
    words = [w for w in model.vocabulary if w not in concepts]
    if not words or not concepts:
        return tuple(words)
    rows = model.encode(["", *concepts, *words]).states[:, -1]
    meanings = torch.nn.functional.normalize(rows[1:] - rows[0], dim=1)
    near = (meanings[len(concepts) :] @ meanings[: len(concepts)].T).amax(1) > NEAR
    return tuple(w for w, close in zip(words, near.tolist(), strict=True) if not close)


def apply(pipe: "DiffusionPipeline", *patches: Patch) -> "DiffusionPipeline":
    """A view of `pipe` with the patches applied first to last; `pipe` itself is untouched."""
    from efface.backbones.pipeline import apply as view

    return view(pipe, *patches)


def draw(
    source: "str | Path | DiffusionPipeline",
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    steps: int = 20,
    guidance: float = 5.0,
    on_step: OnStep = quiet,
) -> "list[Image]":
    """Every prompt at every seed, prompt by prompt."""
    from efface.backbones.pipeline import draw as pictures
    from efface.backbones.pipeline import load_pipeline

    if not prompts:
        raise EffaceError("nothing to draw: give at least one prompt")
    pipe = load_pipeline(str(source)) if isinstance(source, str | Path) else source
    cases = [Case(p, s, steps, guidance) for p in prompts for s in seeds]
    return pictures(pipe, cases, on_step)
