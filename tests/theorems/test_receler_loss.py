"""Receler's loss term by term, and where its adversary goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator
from torch.nn.functional import mse_loss

from efface.adapters import Adapted
from efface.backbones.attention import crossed
from efface.backbones.model import Model, open_folder
from efface.core import Concept
from efface.erasers import find
from efface.erasers.receler import Field
from efface.lesson import Drawing, Lesson
from efface.localized import outside
from efface.moments import beside, said_by
from efface.soft_prompts import behind

RECELER: Any = find("receler")
CONCEPT = Concept("cat", ("cat", "a cat"), keep=("house", "tree"))
SHORT: dict[str, Any] = {"rank": 4, "batch": 2, "prompts": 4, "attack_rate": 0.1}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


def field(model: Model, eraser: Any) -> tuple[Field, Weights]:
    """What is learned from, and erasers that do something already."""
    rng = Generator().manual_seed(0)
    denoiser = Adapted(model.denoiser(), crossed(model.denoiser()))
    lesson = Lesson(model, CONCEPT, Drawing(2, 4, 3.0), 4, rng, lambda what, step, of: None)
    lesson.through(denoiser)
    weights = {n: (w + 0.2).requires_grad_() for n, w in denoiser.begun(4, rng).items()}
    return eraser.field(model, denoiser, lesson, rng), weights


@pytest.mark.parametrize("met", [0, 1, 2])
def test_the_loss_is_the_sum_of_its_terms(model: Model, met: int) -> None:
    """Each pass by itself: examples that are met with learned rows, the others, what is kept."""
    share = {"attack_steps": 1, "attacked": met / 2} if met else {"attack_steps": 0}
    eraser = RECELER(**SHORT, **share, guidance=1.5, local_weight=0.3, keep_weight=2e3)
    told, weights = field(model, eraser)
    rng = Generator().manual_seed(2)
    batch = moments, said = told.lesson.batch(weights, 0, 2, rng)
    keep = told.lesson.kept.some(2, rng)
    if met:
        assert told.adversary is not None
        first, rest = torch.arange(2).split([met, 2 - met])
        rows = told.adversary.rows(moments.pair[first])
        said = beside(behind(said_by(said, first), rows), said_by(said, rest))
    out, added = told.denoiser.run(*moments[:2], said, weights)
    kept = told.denoiser.predict(*keep.moments[:2], keep.said, weights)
    terms = (
        mse_loss(out, moments.other - 1.5 * (moments.named - moments.other)),
        0.3 * outside(added, eraser.inside(told.denoiser, batch, told.words)),
        2e3 * mse_loss(kept, keep.moments.named),
    )
    loss = eraser.loss(told, weights, 0, Generator().manual_seed(2))
    assert loss.item() == pytest.approx(sum(terms).item(), rel=1e-5)  # type: ignore[union-attr]
    assert min(terms).item() > 0.01 * loss.item()


@pytest.mark.parametrize("shared", [False, True])
def test_the_adversary_goes_to_what_the_base_says(model: Model, shared: bool) -> None:
    """Adam's first step is its rate against the gradient's sign, alone or with the update."""
    eraser = RECELER(**SHORT, attacked=1.0, attack_steps=1 if shared else 2)
    told, weights = field(model, eraser)
    assert told.adversary is not None
    batch = moments, said = told.lesson.batch(weights, 0, 2, Generator().manual_seed(2))
    before = told.adversary.rows(torch.arange(2))
    out = told.denoiser.predict(*moments[:2], behind(said, before[moments.pair]), weights)
    [grad] = torch.autograd.grad(mse_loss(out, moments.named), before)
    if shared:
        eraser.loss(told, weights, 0, Generator().manual_seed(2))
    else:
        eraser.attack(told.denoiser, batch, 2, told.adversary, weights)
    tells = grad.abs() > 1e-6
    moved = told.adversary.rows(torch.arange(2)) - before
    torch.testing.assert_close(moved[tells], -0.1 * grad.sign()[tells], rtol=0, atol=2e-3)
    assert tells.sum() > 50
