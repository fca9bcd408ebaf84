"""RACE's attack, its step of training and its layers against the authors': see README.md here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbone import Denoiser
from efface.backbones.model import open_folder
from efface.core import Encoded, Said
from efface.erasers import build
from efface.layers import Layers, chosen
from efface.lesson import Batch, Lesson, with_base
from efface.moments import Moments, said_by
from tests.parity.golden import read, same, unchanged
from tests.tiny import build_tiny

HELD, STORY = read("race")


@pytest.fixture(scope="module")
def denoiser(tiny: Path) -> Denoiser:
    return unchanged(tiny, STORY).denoiser()


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    found = open_folder(build_tiny(tmp_path_factory.mktemp("edited"), seed=1)).denoiser()
    assert same(found.module, STORY["edited"]), "record again"
    return {name: found.weight(name) for name in found.names()}


@pytest.fixture(scope="module")
def batch(denoiser: Denoiser) -> Batch:
    """Their x_t, time and noise, with the base's predictions."""
    rows = HELD["rows"]
    ends = torch.full((2, 1), rows.shape[1])
    both: Said = {"text": Encoded(rows, ends - 1, ends, torch.ones(2, dtype=torch.bool))}
    other, named = (said_by(both, torch.tensor([i])) for i in (0, 1))
    one, blank = torch.zeros(1, dtype=torch.long), HELD["latents"][:0]
    time = torch.tensor([float(STORY["time"])])
    at = Moments(HELD["latents"], time, one, blank, blank, one, HELD["noise"], blank)
    return Batch(with_base(denoiser, at, named, other), named)


def race(**settings: Any) -> Any:
    return build("race", reach=STORY["reach"], target="noise", keep_weight=0.0, **settings)


def found(denoiser: Denoiser, batch: Batch, edited: dict[str, Tensor], **settings: Any) -> Tensor:
    rows: Tensor = race(**settings).attack(
        denoiser, batch, edited, Generator().manual_seed(STORY["seed"])
    )
    return rows


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_attack_is_theirs(
    distance: str, steps: int, denoiser: Denoiser, batch: Batch, edited: dict[str, Tensor]
) -> None:
    ours = found(denoiser, batch, edited, attack_steps=steps, distance=distance)
    theirs, rows = HELD[f"attack/{distance}/{steps}"], batch.said["text"].states
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    begun = found(denoiser, batch, edited, attack_steps=0)
    assert (begun - theirs).abs().mean() > 0.1 * STORY["reach"], "the control: it steps"
    assert (theirs - rows).abs().max() <= STORY["reach"] + 1e-6


@pytest.mark.parametrize("lasso", [False, True])
def test_the_step_is_theirs(
    lasso: bool, denoiser: Denoiser, batch: Batch, edited: dict[str, Tensor]
) -> None:
    """ESD's loss at what the attack found, the regulariser and all gradients of values."""
    lesson = Lesson.__new__(Lesson)
    lesson.denoiser = denoiser
    lesson.batch = lambda *asked: batch  # type: ignore[method-assign]
    crossed = chosen(list(edited), "x")
    weights = {n: w.clone().requires_grad_(n in crossed) for n, w in edited.items()}
    start = {n: STORY["moved"] * w if n in crossed else w for n, w in edited.items()}
    eraser = race(attack_steps=10, lasso=0.1 * lasso)
    loss = eraser.robust(lesson, start, weights, 0, Generator().manual_seed(STORY["seed"]))
    assert loss.item() == pytest.approx(HELD[f"step/{lasso}/loss"].item(), rel=1e-5)
    values = [n for n in crossed if ".to_v." in n]
    for name, grad in zip(
        values, torch.autograd.grad(loss, [weights[n] for n in values]), strict=True
    ):
        theirs = HELD[f"step/{lasso}/grad/{name.removeprefix('unet/')}"]
        torch.testing.assert_close(grad, theirs, rtol=1e-4, atol=1e-6)
        assert theirs.any()


@pytest.mark.parametrize(
    ("layers", "theirs"), [("x", "xattn"), ("u", "noxattn"), ("self", "selfattn"), ("full", "full")]
)
def test_layers_are_the_first_codes(layers: Layers, theirs: str) -> None:
    """Theirs, of ESD's first code, choose among LDM's names; these are the same in diffusers'."""
    names = [f"unet/{name}" for name in STORY["names"]]
    assert sorted(chosen(names, layers)) == sorted(f"unet/{n}" for n in STORY["trained"][theirs])
    assert 0 < len(STORY["trained"][theirs]) <= len(names)
