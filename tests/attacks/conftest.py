"""A tiny model, itself with "cat" mapped away, and with a gate in its text encoder."""

from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply
from efface.core import Case
from efface.patch import load
from tests.test_gates import gated


@pytest.fixture(scope="module")
def base(pipe: DiffusionPipeline) -> Model:
    return open_pipeline(pipe, frozen=True)


@pytest.fixture(scope="module")
def erased(pipe: DiffusionPipeline, tiny_patch: Path) -> Model:
    return open_pipeline(apply(pipe, load(tiny_patch)), frozen=True)


@pytest.fixture(scope="module", params=["map", "gate"])
def either(pipe: DiffusionPipeline, erased: Model, request: pytest.FixtureRequest) -> Model:
    """Erased one way or the other."""
    if request.param == "map":
        return erased
    return open_pipeline(apply(pipe, gated(open_pipeline(pipe))), frozen=True)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A prompt with a picture of what it names."""
    Image.linear_gradient("L").convert("RGB").resize((16, 16)).save(tmp_path / "cat.png")
    return Case("a cat", 0, steps=5, start=tmp_path / "cat.png")
