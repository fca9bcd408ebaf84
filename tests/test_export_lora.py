"""A LoRA of a patch draws as the patch does, with the loaders that people use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface.api import quiet
from efface.backbones.pipeline import load_pipeline
from efface.core import EffaceError
from efface.export_lora import export_lora
from efface.patch import Patch
from tests.families import build_family
from tests.test_families import handed_over, latents

Cli = Callable[..., Any]
PROMPTS = ["cat", "a house of cats"]


def drawn(pipe: Any) -> Tensor:
    return latents(pipe, *handed_over(pipe, PROMPTS))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


class Made:
    """A pipeline of one family and patches of it."""

    def __init__(self, name: str, place: Path) -> None:
        self.folder = build_family(name, place / name)
        keep = ["house", "dog"]
        self.patch = efface.erase(self.folder, "cat", method="uce", keep=keep).scale(3.0)
        self.other = efface.erase(self.folder, "house", method="uce", keep=["dog"])
        self.dense = efface.erase(
            self.folder, "cat", method="uce", technique="tensor", keep=keep
        ).scale(3.0)


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "flux", "sana"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("lora"))


def check(folder: Path, patches: list[Patch], lora: Path) -> None:
    """Pictures with the LoRA are those of the patches; without it they are others."""
    pipe = load_pipeline(str(folder))
    wanted, before = drawn(efface.apply(pipe, *patches)), drawn(pipe)
    pipe.load_lora_weights(lora)
    assert distance(drawn(pipe), wanted) < 1e-3
    assert distance(before, wanted) > 5e-3


def test_diffusers_draws_as_the_patch(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    done = export_lora(made.folder, [made.patch, made.other], out, quiet)
    assert done.error == 0
    assert done.bytes == out.stat().st_size
    check(made.folder, [made.patch, made.other], out)


def test_changes_without_factors(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    done = export_lora(made.folder, [made.dense], out, quiet)
    assert 1 <= done.rank < 16
    assert done.error < 1e-9
    check(made.folder, [made.dense], out)
