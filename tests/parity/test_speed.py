"""SPEED's projector, filter and solve against the authors' own: see README.md beside this file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from efface.backbones.model import Model
from efface.core import Concept
from efface.erasers import build
from efface.erasers.speed import FIXED
from efface.erasers.uce import concept_pairs
from efface.tokens import kept
from tests.parity.golden import read, same, unchanged

HELD, STORY = read("speed")
CASES: dict[str, dict[str, Any]] = STORY["cases"]
TOLERANCE = {"float32": 1e-3, "float64": 1e-5}


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    from transformers import CLIPTextModel

    found = unchanged(tiny, STORY)
    assert same(CLIPTextModel.from_pretrained(tiny / "text_encoder"), STORY["text"])
    return found


def ours(model: Model, case: dict[str, Any], weight: Tensor) -> Tensor:
    """Our edit of one matrix, so that the filter sees that layer alone, as theirs does."""
    concept = Concept("x", tuple(case["erase"]), tuple(case["toward"]))
    pairs = concept_pairs(model, concept, "last", "text")
    retain = kept(model.encode(STORY["kept"], "text"), "last")
    empty = kept(model.encode([""], "text"), "all")
    fixed = empty[torch.linspace(0, len(empty) - 1, FIXED).long()]
    mean_value = retain.square().sum().item() / retain.numel()
    eraser: Any = build(
        "speed",
        rows="last",
        free=case["threshold"] / mean_value,
        filtered=case["filter"],
        ridge=case.get("retain_scale", 1.0),
        fix_ridge=case.get("lamb", 0.0),
    )
    wide = weight.double()
    projector = eraser.projector(pairs, retain, wide.T @ wide)
    return wide @ eraser.solve(pairs, projector, fixed).dense()


def values(model: Model) -> dict[str, Tensor]:
    denoiser = model.denoiser()
    names = [n for n in denoiser.names() if ".attn2.to_v." in n]
    return {n.removeprefix("unet/"): denoiser.weight(n) for n in names}


def apart(one: list[Tensor], other: list[Tensor], base: list[Tensor]) -> float:
    """‖W′ − W″‖ as a share of the change ‖W″ − W‖, over all layers."""
    first, second, start = (
        torch.cat([w.double().flatten() for w in x]) for x in (one, other, base)
    )
    return ((first - second).norm() / (second - start).norm()).item()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(CASES))
def test_edits_are_theirs(name: str, dtype: str, model: Model) -> None:
    base = values(model)
    theirs = [HELD[f"{dtype}/{name}/{layer}"] for layer in base]
    edited = [ours(model, CASES[name], weight) for weight in base.values()]
    start = list(base.values())
    assert apart(edited, theirs, start) <= TOLERANCE[dtype]
    assert apart(start, theirs, start) == 1
    turned = {**CASES[name], "filter": not CASES[name]["filter"]}
    other = [ours(model, turned, weight) for weight in base.values()]
    assert apart(other, theirs, start) > 0.01, "the control: the filter tells"
