"""Concept Ablation's loss, gradients and layers against the authors': see README.md here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbone import Denoiser
from efface.core import Encoded, Said
from efface.erasers.ablation import Ablation, Anchors
from efface.layers import Layers, chosen
from efface.moments import said_by
from tests.parity.golden import read, unchanged

HELD, STORY = read("ablation")
COUNT = len(HELD["pictures"])
CHANNELS = 4
"""Under its mask theirs is a mean over pixels but a sum over channels; the prior's is a mean."""


@pytest.fixture(scope="module")
def denoiser(tiny: Path) -> Denoiser:
    return unchanged(tiny, STORY).denoiser()


def anchors(denoiser: Denoiser) -> Anchors:
    """Their noised pictures, of a concept and its anchor."""
    rows = HELD["rows"]
    ends = torch.full((2, 1), rows.shape[1])
    both: Said = {"text": Encoded(rows, ends - 1, ends, torch.ones(2, dtype=torch.bool))}
    found = Anchors.__new__(Anchors)
    found.denoiser = denoiser
    found.named, found.other = (said_by(both, torch.tensor([i])) for i in (0, 1))
    pair = torch.zeros(COUNT, dtype=torch.long)
    asked = (HELD["noised"], HELD["times"].float(), pair, HELD["noise"])
    found.some = lambda count, rng: asked  # type: ignore[method-assign]
    return found


def ours(denoiser: Denoiser, teacher: Any, prior: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Our loss and its gradients in the middle block."""
    names = chosen(denoiser.names(), "kv")
    weights = {n: (STORY["moved"] * denoiser.weight(n)).requires_grad_() for n in names}
    eraser = Ablation(
        teacher=teacher, prior_weight=0.7 / CHANNELS * prior, batch=COUNT, keep_weight=0.0
    )
    loss = eraser.loss(anchors(denoiser), weights, Generator())
    middle = [n for n in names if "/mid_block." in n]
    grads = torch.autograd.grad(loss, [weights[n] for n in middle])
    return loss, {n.removeprefix("unet/"): g for n, g in zip(middle, grads, strict=True)}


@pytest.mark.parametrize("prior", [0, 1])
@pytest.mark.parametrize(
    ("teacher", "theirs"), [("anchor", "model-based"), ("noise", "noise-based")]
)
def test_the_loss_is_theirs(teacher: str, theirs: str, prior: int, denoiser: Denoiser) -> None:
    """Their gradients too, but for the start token's part, which their attention leaves out."""
    loss, grads = ours(denoiser, teacher, prior)
    for kind in ("plain", "theirs"):
        recorded = HELD[f"{kind}/{theirs}/{prior}/loss"].item()
        assert CHANNELS * loss.item() == pytest.approx(recorded, rel=1e-5)
    assert len(grads) == 2
    for name, grad in grads.items():
        plain, held = (HELD[f"{kind}/{theirs}/{prior}/grad/{name}"] for kind in ("plain", "theirs"))
        torch.testing.assert_close(CHANNELS * grad, plain, rtol=1e-4, atol=1e-6)
        assert 0.01 < (plain - held).norm() / plain.norm() < 1


def test_x_t_is_theirs(denoiser: Denoiser) -> None:
    alpha, sigma = denoiser.noise.levels(HELD["times"].float())
    ours = alpha * HELD["pictures"] + sigma * HELD["noise"]
    torch.testing.assert_close(ours, HELD["noised"], rtol=1e-5, atol=1e-6)


def test_layers_are_theirs(denoiser: Denoiser) -> None:
    """What they train for nudity, all attention, is our `x` and `self` together."""
    every: tuple[Layers, ...] = ("kv", "x", "self", "full")
    names = denoiser.names()
    picked = {c: {n.removeprefix("unet/") for n in chosen(names, c)} for c in every}
    trained = {group: set(names) for group, names in STORY["trained"].items()}
    assert picked["kv"] == trained["cross-attn"] != set()
    assert picked["x"] | picked["self"] == trained["attn"]
    assert picked["full"] == trained["full-weight"]
