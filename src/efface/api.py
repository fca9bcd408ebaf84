"""The short way: erase, load, apply, draw."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.backbones.model import Model
from efface.backbones.open import open_model
from efface.core import Case, Concept, EffaceError, OnStep, quiet
from efface.erasers import build, presets
from efface.facts import Ruler, summary
from efface.linalg import LowRank
from efface.patch import Patch, load, stack
from efface.phrases import THINGS, evenly, in_turn, said, said_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

__all__ = ["apply", "draw", "erase", "load", "pipeline", "stack"]

NEAR = 0.9
"""Cosine above which a word to keep means the erased concept itself."""


def erase(
    source: "str | Path | DiffusionPipeline",
    *concepts: str,
    toward: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
    within: str | Sequence[str] | None = None,
    method: str = "rece",
    preset: str | None = None,
    strength: float = 1.0,
    seed: int = 0,
    tokenizer: str | Path | None = None,
    on_step: OnStep = quiet,
    **settings: Any,
) -> Patch:
    """Fit the patch that erases `concepts` from a model; the model is left alone.

    `source`: "emoji", a diffusers folder, a checkpoint file, a hub id or a loaded pipeline.
    `toward`: what concepts become, "" for nothing in particular; None means "", or for a style the
    least alike of the model's other styles. `keep`: phrases that must not change; None means the
    model's own list of everyday words, less those that mean the concept; those for styles and
    backgrounds also as said of things. `within`: things that a style is said of; None means the
    model's words for things if each concept ends in "style".
    `strength`: 0 is no edit, 1 the edit as fitted. `preset`: None means the defaults, or for a
    style the method's preset "within". `tokenizer`: for a checkpoint file, a diffusers folder of
    the same family if Hugging Face's cache has no tokenizer. `settings`: fields of the method.
    """
    model = open_model(source, tokenizer)
    # The empty prompt is kept in any case.
    things = said_of_things(model, concepts) if within is None else _spoken(within)
    kept = default_keep(model, concepts, things) if keep is None else _spoken(keep)
    if preset is None and things and "within" in presets(method):
        preset = "within"
    eraser = build(method, preset, **settings)
    goals = default_goals(model, concepts, kept, things) if toward is None else _phrases(toward)
    concept = Concept(", ".join(concepts), tuple(concepts), goals, kept, things)
    model.prepare(said(concept))
    patch = eraser.fit(model, concept, torch.Generator().manual_seed(seed), on_step)
    scaled = patch.scale(strength)
    return scaled if scaled is patch else remeasured(model, scaled, patch.facts)


def _spoken(given: str | Sequence[str]) -> tuple[str, ...]:
    """Phrases with a word in them."""
    return tuple(phrase for phrase in _phrases(given) if phrase.strip())


def said_of_things(model: Model, concepts: Sequence[str]) -> tuple[str, ...]:
    """The model's words for things if every concept is a style, which is said of them."""
    return model.things if concepts and all(_is_style(c) for c in concepts) else ()


def _is_style(phrase: str) -> bool:
    return phrase.lower().split()[-1:] == ["style"]


def default_goals(
    model: Model, concepts: Sequence[str], kept: Sequence[str], things: Sequence[str]
) -> tuple[str, ...]:
    """Nothing in particular; for a style said of things, the least alike of the styles kept.

    A model that was taught styles by name draws one of them even where none is asked for.
    """
    styles = [k for k in kept if _is_style(k)]
    if not things or not styles:
        return ("",)
    some = evenly(things, THINGS)
    gram = model.gram()

    def rows(style: str) -> torch.Tensor:
        return model.encode([said_of(t, style) for t in some]).states.double()

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        off = one - other
        return ((off @ gram) * off).sum().item()

    known = {style: rows(style) for style in (*styles, *concepts)}
    return tuple(max(styles, key=lambda s: apart(known[c], known[s])) for c in concepts)


def _phrases(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def remeasured(model: Model, scaled: Patch, facts: Mapping[str, Any]) -> Patch:
    """A scaled patch with the facts of the one it came from, measured anew where they can be."""
    if scaled.edits or len({m.encoder for m in scaled.maps}) != len(scaled.maps):
        return scaled
    found = {
        m.encoder: Ruler(model, scaled.concept, m.encoder).facts(LowRank(m.a, m.b))
        for m in scaled.maps
    }
    return replace(scaled, facts={**facts, **summary(found)})


def default_keep(model: Model, concepts: Sequence[str], within: Sequence[str]) -> tuple[str, ...]:
    """Everyday words, and the manners among them as said of things; `within` says those itself."""
    words = everyday(model, concepts)
    things = [w for w in words if w in model.things]
    manners = [w for w in words if w not in model.things]
    return words if within else (*words, *in_turn(manners, things))


def everyday(model: Model, concepts: Sequence[str]) -> tuple[str, ...]:
    """The model's everyday words less those that mean, or nearly mean, one of the concepts.

    Meaning is the last row that the denoiser reads less that of the empty prompt.
    """
    erased = {c.strip().lower() for c in concepts}
    words = [w for w in model.vocabulary if w.strip().lower() not in erased]
    if not words or not concepts:
        return tuple(words)
    said = model.encode(["", *concepts, *words])
    rows = said.states[torch.arange(len(said.ends)), said.ends[:, 0] - 1]
    meanings = torch.nn.functional.normalize(rows[1:] - rows[0], dim=1)
    near = (meanings[len(concepts) :] @ meanings[: len(concepts)].T).amax(1) > NEAR
    return tuple(w for w, close in zip(words, near.tolist(), strict=True) if not close)


def apply(pipe: "DiffusionPipeline", *patches: Patch) -> "DiffusionPipeline":
    """A view of `pipe` with the patches applied first to last; `pipe` itself is untouched."""
    from efface.backbones.pipeline import apply as view

    return view(pipe, *patches)


def pipeline(spec: str, **options: Any) -> "DiffusionPipeline":
    """The pipeline of "emoji", a folder or a hub id; `options` go to its `from_pretrained`."""
    from efface.backbones.pipeline import load_pipeline

    return load_pipeline(spec, **options)


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

    if not prompts:
        raise EffaceError("nothing to draw: give at least one prompt")
    pipe = pipeline(str(source)) if isinstance(source, str | Path) else source
    cases = [Case(p, s, steps, guidance) for p in prompts for s in seeds]
    return pictures(pipe, cases, on_step)
