"""Receler's adversary goes to what the base says of the concept, alone or with the update."""

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
from efface.lesson import Drawing, Lesson
from efface.soft_prompts import behind

RECELER: Any = find("receler")
CONCEPT = Concept("cat", ("cat", "a cat"), keep=("house", "tree"))


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.mark.parametrize("shared", [False, True])
def test_the_adversary_goes_to_what_the_base_says(model: Model, shared: bool) -> None:
    """Adam's first step is its rate against the gradient's sign."""
    settings = {"rank": 4, "batch": 2, "prompts": 4, "attacked": 1.0, "attack_rate": 0.1}
    eraser = RECELER(**settings, attack_steps=1 if shared else 2)
    rng = Generator().manual_seed(0)
    denoiser = Adapted(model.denoiser(), crossed(model.denoiser()))
    lesson = Lesson(model, CONCEPT, Drawing(2, 4, 3.0), 4, rng, lambda what, step, of: None)
    lesson.through(denoiser)
    weights = {n: (w + 0.2).requires_grad_() for n, w in denoiser.begun(4, rng).items()}
    field = eraser.field(model, denoiser, lesson, rng)
    batch = moments, said = lesson.batch(weights, 0, 2, Generator().manual_seed(2))
    before = field.adversary.rows(torch.arange(2))
    out = denoiser.predict(*moments[:2], behind(said, before[moments.pair]), weights)
    [grad] = torch.autograd.grad(mse_loss(out, moments.named), before)
    if shared:
        eraser.loss(field, weights, 0, Generator().manual_seed(2))
    else:
        eraser.attack(denoiser, batch, 2, field.adversary, weights)
    tells = grad.abs() > 1e-6
    moved = field.adversary.rows(torch.arange(2)) - before
    torch.testing.assert_close(moved[tells], -0.1 * grad.sign()[tells], rtol=0, atol=2e-3)
    assert tells.sum() > 50
