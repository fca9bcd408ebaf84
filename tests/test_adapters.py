"""Adapters: as many numbers as the paper's erasers, and refused where they do not fit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Generator

from efface.adapters import Adapted
from efface.backbones.attention import crossed
from efface.backbones.denoiser import LiveDenoiser
from efface.backbones.noise import noise_of
from efface.backbones.sites import family
from efface.core import EffaceError, Gate
from efface.gates import build
from efface.gates.adapter import begun

SD14 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
}


def test_erasers_of_sd_have_the_papers_size() -> None:
    """Worked out by hand: 16 blocks, Σ d = 12,480, rank 128."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD14)

    kind = family("StableDiffusionPipeline", "UNet2DConditionModel", ["text_encoder"], "")
    noise = noise_of("DDIMScheduler", {"prediction_type": "epsilon"})
    denoiser = LiveDenoiser(unet, kind, noise, 8, lambda: None)
    widths = crossed(denoiser)
    assert sorted(widths.values()) == [320] * 5 + [640] * 5 + [1280] * 6
    weights = Adapted(denoiser, widths).begun(128, Generator())
    count = sum(w.numel() for w in weights.values())
    assert count == 2 * 128 * 12_480 + 16 * 128 + 12_480 == 3_209_408
    assert count == pytest.approx(0.0037 * sum(p.numel() for p in unet.parameters()), rel=0.01)


def test_an_adapter_of_the_file_must_fit() -> None:
    gate = Gate("unet/attn2", "adapter", "", {}, begun(8, 4, Generator()))
    wrong = begun(6, 2, Generator())
    damage: dict[str, dict[str, Any]] = {
        "a setting 'rank'": {"settings": {"rank": 4}},
        "matrices and vectors": {"tensors": {n: t for n, t in wrong.items() if "up" in n}},
        "do not fit rank 4": {"tensors": {**gate.tensors, "up.bias": wrong["up.bias"]}},
        "no numbers": {"tensors": {n: t > 0 for n, t in gate.tensors.items()}},
    }
    for told, change in damage.items():
        with pytest.raises(EffaceError, match=f"its gate at {gate.site} has.*{told}"):
            build(replace(gate, **change))
    with pytest.raises(EffaceError, match="reads rows of 6, not 5"):
        build(replace(gate, tensors=wrong))(torch.zeros(1, 2, 5), None)
