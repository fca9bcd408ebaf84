"""Safe Latent Diffusion's drawings against the authors' pipeline's: see README.md here."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept
from efface.erasers import build
from efface.patch import Patch
from tests.parity.golden import read, same

HELD, STORY = read("sld")
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}
"""Of what was steered; a scale of 5000 makes 1e-7 in a prediction 5e-4 in φ."""


def drawn(pipe: Any, dtype: torch.dtype, *patches: Patch) -> list[Tensor]:
    """Latents after every step of an ordinary guided drawing from their noise."""
    passed = list[Tensor]()

    def keep(_: Any, i: int, time: Any, told: dict[str, Tensor]) -> dict[str, Tensor]:
        passed.append(told["latents"].clone())
        return told

    rng = Generator().manual_seed(STORY["seed"])
    noise = torch.randn(len(STORY["prompts"]), 4, 8, 8, generator=rng)
    guided = copy.deepcopy(apply(pipe, *patches)).to(dtype)
    guided.set_progress_bar_config(disable=True)
    guided(
        STORY["prompts"],
        num_inference_steps=STORY["steps"],
        guidance_scale=STORY["guidance"],
        latents=noise.to(dtype),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return passed


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Any:
    found = load_pipeline(str(tiny))
    assert same(found.unet, STORY["model"])
    assert same(found.text_encoder, STORY["text"])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(STORY["presets"]))
def test_drawings_are_theirs(name: str, dtype: torch.dtype, pipe: Any) -> None:
    """Before steering begins, at its first step and at the end."""
    scale, warmup, threshold, momentum, beta = STORY["presets"][name]
    eraser: Any = build("sld", name)
    assert (eraser.scale, eraser.warmup, eraser.threshold) == (scale, warmup, threshold)
    assert (eraser.momentum_scale, eraser.momentum_decay) == (momentum, beta)
    concept = Concept(STORY["concept"], (STORY["concept"],))
    patch = eraser.fit(open_pipeline(pipe), concept, Generator(), lambda what, step, of: None)
    passed = drawn(pipe, dtype, patch)
    at = sorted({max(0, warmup - 1), warmup, STORY["steps"] - 1})
    ours, theirs = torch.stack([passed[i] for i in at]), HELD[f"{dtype}/{name}"]
    assert ours.dtype == dtype
    steered = (theirs[-1] - HELD[f"{dtype}/off"][-1]).norm()
    off = [(one - other).norm() for one, other in zip(ours, theirs, strict=True)]
    assert max(off) <= TOLERANCE[dtype] * steered


def test_unguided_drawings_are_the_same(pipe: Any) -> None:
    """The control: what is compared above is not the pipeline's own doing."""
    unsteered = HELD["torch.float64/off"][-1]
    assert torch.equal(drawn(pipe, torch.float64)[-1], unsteered)
    for name in STORY["presets"]:
        assert not torch.equal(HELD[f"torch.float64/{name}"][-1], unsteered)
