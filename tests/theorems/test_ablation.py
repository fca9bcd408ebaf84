"""Concept Ablation against its paper: Eq. 4 and 5 written out slowly, and what must not move."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Generator

from efface.backbones.model import Model
from efface.core import Concept, EffaceError, quiet
from efface.erasers import find
from efface.moments import said_by
from efface.patch import Patch
from tests import quick

Ablation: Any = find("ablation")
CONCEPT = Concept("cat", ("cat", "a cat"), ("dog", "a dog"), ("house", "tree"))
SHORT: dict[str, Any] = {**quick.SHORT, "drawings": 4, "steps": 3}


def fit(model: Model, concept: Concept = CONCEPT, **settings: Any) -> Patch:
    return quick.fit("ablation", model, concept, **{**SHORT, **settings})


def test_no_steps_no_change(model: Model) -> None:
    assert not any(e.a.any() for e in fit(model, steps=0).edits)


def test_its_own_anchor_moves_nothing(model: Model) -> None:
    """The goal is what is predicted already; the noise-based teacher is no such thing."""
    itself = Concept("cat", ("cat",), ("cat",))
    assert max(e.a.abs().max().item() for e in fit(model, itself, keep_weight=0.0).edits) < 1e-6
    noise = fit(model, itself, keep_weight=0.0, teacher="noise")
    assert max(e.a.abs().max().item() for e in noise.edits) > 1e-4


@pytest.mark.parametrize("teacher", ["anchor", "noise"])
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_the_loss_is_the_papers(teacher: Any, prior: float, model: Model, tiny: Path) -> None:
    """One noised picture at a time, with the library's U-Net and nothing of ours."""
    eraser = Ablation(**SHORT, teacher=teacher, prior_weight=prior)
    anchors = eraser.anchors(model, CONCEPT, Generator().manual_seed(0), quiet)
    rng = Generator().manual_seed(4)
    names = [n for n in anchors.denoiser.names() if ".attn2.to_v" in n]
    weights = {n: anchors.denoiser.weight(n) + 0.1 for n in names}
    ours = eraser.loss(anchors, weights, rng)
    unet = UNet2DConditionModel.from_pretrained(tiny / "unet").eval()
    for name in names:
        unet.get_parameter(name.removeprefix("unet/")).data += 0.1
    kept = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000), 0)  # tiny's DDIMScheduler
    rng = Generator().manual_seed(4)
    which = torch.randint(4, (2,), generator=rng).tolist()
    times = torch.randint(1000, (2,), generator=rng).tolist()
    noises = torch.randn(2, 4, 8, 8, generator=rng)
    words = model.encode(["cat", "a cat"]).states
    goals = model.encode(["dog", "a dog"]).states
    total = 0.0
    for i, (at, time) in enumerate(zip(which, times, strict=True)):
        picture, pair = anchors.pictures[at], at % 2
        noised = (kept[time].sqrt() * picture + (1 - kept[time]).sqrt() * noises[i])[None]
        with torch.no_grad():
            named = unet(noised, time, words[pair : pair + 1]).sample[0]
            anchor = unet(noised, time, goals[pair : pair + 1]).sample[0]
        goal = anchor if teacher == "anchor" else noises[i]
        total += ((named - goal) ** 2).mean().item() / 2
        total += prior * ((anchor - noises[i]) ** 2).mean().item() / 2
    picks = torch.randint(len(anchors.kept.moments.times), (2,), generator=rng)
    for i in picks.tolist():
        kept_at = anchors.kept.moments
        rows = anchors.kept.prompts["text"].states[kept_at.pair[i]][None]
        with torch.no_grad():
            out = unet(kept_at.latents[i][None], kept_at.times[i], rows).sample[0]
        total += ((out - kept_at.named[i]) ** 2).mean().item() / 2
    assert ours.item() == pytest.approx(total, rel=1e-4)


def test_the_concept_comes_to_its_anchor(model: Model) -> None:
    """How far predictions under the concept are from those under the anchor, before and after."""
    eraser = Ablation(**{**SHORT, "steps": 40, "rate": 3e-4, "layers": "x", "keep_weight": 0.0})
    anchors = eraser.anchors(model, CONCEPT, Generator().manual_seed(0), quiet)
    patch = eraser.fit(model, CONCEPT, Generator().manual_seed(0), quiet)
    new = {e.param: model.weight(e.param) + e.a for e in patch.edits}
    moments = anchors.seen.moments
    prompts = [said_by(s, moments.pair) for s in (anchors.named, anchors.other)]
    outs = [anchors.denoiser.predict(*moments[:2], said, new) for said in prompts]
    before = (moments.named - moments.other).square().sum()
    after = (outs[0] - outs[1]).square().sum()
    assert before > 0
    assert after < 0.5 * before


def test_the_teacher_is_the_current_model(model: Model) -> None:
    """With a frozen teacher the loss at the base's weights and elsewhere would have one goal."""
    eraser = Ablation(**{**SHORT, "keep_weight": 0.0})
    anchors = eraser.anchors(model, CONCEPT, Generator().manual_seed(0), quiet)
    names = [n for n in anchors.denoiser.names() if n.endswith("conv_out.bias")]
    shifted = {n: anchors.denoiser.weight(n) + 100.0 for n in names}
    losses = [eraser.loss(anchors, w, Generator().manual_seed(1)).item() for w in ({}, shifted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_bad_settings_are_refused() -> None:
    for wrong in ({"batch": 0}, {"rate": 0.0}, {"steps": -1}, {"prior_weight": -1.0}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            Ablation(**wrong)
