"""A pruned model's mask is read off its zeros; one that is not pruned has none to read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

import efface
from efface.backbones.pipeline import apply
from efface.core import Concept, Edit
from efface.patch import Patch, load
from efface.report.evidence import gather
from efface.report.limits import limits
from efface.zeros import FEW, leak

Cli = Callable[..., Any]
NAME = "unet/mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight"


def pruned(pipe: DiffusionPipeline, share: float, base: str) -> tuple[Patch, torch.Tensor]:
    """A patch that keeps a random mask of one layer, and the mask."""
    shape = pipe.unet.get_parameter(NAME.partition("/")[2]).shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) >= share
    edit = Edit(NAME, "mul", mask.float())
    return Patch(Concept("cat", ("cat",)), {"name": "x"}, base, edits=(edit,)), mask


def test_the_mask_is_told(pipe: DiffusionPipeline, tiny_patch: Path) -> None:
    patch, mask = pruned(pipe, 0.1, load(tiny_patch).base)
    found = leak(apply(pipe, patch), pipe)
    assert found is not None
    assert found["zeros"] == int((~mask).sum())
    assert (found["of"], found["layers"]) == (mask.numel(), 1)
    assert found["most"] == {NAME: round(1 - mask.float().mean().item(), 4)}


def test_what_was_zero_before_is_no_mask(pipe: DiffusionPipeline, tiny_patch: Path) -> None:
    base = load(tiny_patch).base
    patch, mask = pruned(pipe, 0.1, base)
    once = apply(pipe, patch)
    assert leak(apply(once, patch), once) is None
    few, mask = pruned(pipe, FEW / 2, base)
    assert int((~mask).sum()) <= FEW * mask.numel()
    assert leak(apply(pipe, few), pipe) is None


def test_an_edited_model_has_no_mask(pipe: DiffusionPipeline, tiny_patch: Path) -> None:
    assert leak(apply(pipe, load(tiny_patch)), pipe) is None
    assert leak(pipe, pipe) is None


def test_the_audit_and_its_report_say_so(
    cli: Cli,
    pipe: DiffusionPipeline,
    tiny: Path,
    tiny_patch: Path,
    tiny_judge: Path,
    tmp_path: Path,
) -> None:
    patch, mask = pruned(pipe, 0.2, load(tiny_patch).base)
    patch.save(tmp_path / "p.safetensors")
    asked = ("audit", tiny, tmp_path / "p.safetensors", "-o", tmp_path / "run", "--attack", "none",
             "--count", "2", "--steps", "1", "--detector", tiny_judge)  # fmt: skip
    told = json.loads(cli(*asked, "--json").out)
    assert told["story"]["zeros"]["zeros"] == int((~mask).sum())
    assert "mask leaks" in cli(*asked).out
    said = limits(gather(tmp_path / "run"))
    assert f"{int((~mask).sum())} weights of 1 layers" in said[0]
    assert any(f"classifier: path {tiny_judge}, top 1, weights " in each for each in said)


def test_conceptprune_leaks(pipe: DiffusionPipeline, tiny: Path) -> None:
    patch = efface.erase(
        tiny, "cat", method="conceptprune", keep=["dog"], pairs=2, drawing_steps=2, calls=2
    )
    found = leak(apply(pipe, patch), pipe)
    assert found is not None
    assert found["zeros"] == patch.facts["pruned"]
