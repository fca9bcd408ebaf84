"""FSU's trained weights, loss and gradients against the authors' own: see README.md beside this."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from transformers import CLIPTextModel

from efface.backbones.model import Model
from efface.core import Concept
from efface.erasers import build, fsu
from efface.likeness import Noised
from efface.train import Weights
from tests.parity.golden import read, same, unchanged

HELD, STORY = read("fsu")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    found = unchanged(tiny, STORY)
    assert same(CLIPTextModel.from_pretrained(tiny / "text_encoder"), STORY["text"])
    return found


class Caught(Exception):
    """Carries a fit's loss out of it."""


@pytest.fixture
def loss(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[Weights], Tensor]:
    """The loss that a fit descends, at their noised pictures and phrase."""
    found: dict[str, Any] = {}

    def catch(start: Weights, loss: Any, **told: Any) -> Any:
        found.update(start=start, loss=loss)
        raise Caught

    def seen(denoiser: Any, clean: Any, times: Any, rng: Any) -> Noised:
        return Noised(HELD["noisy_latents"], HELD["timesteps"].float(), HELD["noise"])

    monkeypatch.setattr(fsu, "train", catch)
    monkeypatch.setattr(fsu, "noised", seen)
    monkeypatch.setattr(fsu.FSU, "_phrasings", lambda *asked: [0, 0])
    eraser = build("fsu", keep_weight=0.0, batch=2, drawings=1, drawing_steps=1)
    with pytest.raises(Caught):
        eraser.fit(model, Concept("cat", ("cat",)), Generator(), lambda what, step, of: None)
    return lambda weights: found["loss"](weights, 0, Generator())


def test_the_ascent_is_theirs(model: Model, loss: Callable[[Weights], Tensor]) -> None:
    speaker = model.speaker()
    names = fsu.trained_names(speaker.names())
    weights = {n: speaker.weight(n).clone().requires_grad_() for n in names}
    value = loss(weights)
    assert value.item() == pytest.approx(HELD["loss"].item(), rel=1e-5)
    assert value.item() < 0, "the control: it ascends"
    grads = torch.autograd.grad(value, list(weights.values()))
    assert len(grads) == sum(key.startswith("grad/") for key in HELD)
    for name, grad in zip(names, grads, strict=True):
        theirs = HELD[f"grad/{name.removeprefix('text_encoder/')}"]
        torch.testing.assert_close(grad, theirs, rtol=1e-4, atol=1e-8)


def test_noised_pictures_are_theirs(model: Model) -> None:
    alpha, sigma = model.denoiser().noise.levels(HELD["timesteps"].float())
    ours = alpha * HELD["latents"] + sigma * HELD["noise"]
    torch.testing.assert_close(ours, HELD["noisy_latents"], rtol=1e-5, atol=1e-6)


def test_what_is_trained_of_clip_l_is_theirs() -> None:
    sizes = {f"text_encoder/{name}": size for name, size in STORY["sizes"].items()}
    picked = fsu.trained_names(list(sizes))
    assert set(picked) == {f"text_encoder/{name}" for name in STORY["trained"]}
    assert sum(sizes[n] for n in picked) == 59_031_552
    assert sum(sizes.values()) == 123_060_480
