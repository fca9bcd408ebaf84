"""ESD's target, gradients, x_t and choice of layers against the authors': see README.md here."""

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
from efface.moments import Moments, beside, said_by
from tests.parity.golden import read, same, unchanged
from tests.tiny import build_tiny

HELD, STORY = read("esd")
TRAINED: dict[str, set[str]] = {method: set(names) for method, names in STORY["trained"].items()}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-7}


@pytest.fixture(scope="module")
def denoiser(tiny: Path) -> Denoiser:
    return unchanged(tiny, STORY).denoiser()


def said(rows: Tensor) -> Said:
    ends = torch.full((len(rows), 1), rows.shape[1])
    spoken = torch.ones(len(rows), dtype=torch.bool)
    return {"text": Encoded(rows.float(), ends - 1, ends, spoken)}


def ours(
    denoiser: Denoiser, weights: dict[str, Tensor], latents: Tensor, time: Tensor, rows: Tensor,
    **settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Our loss at their x_t, time and rows of "" and the concept, and its gradients."""
    both = said(rows)
    other, named = (said_by(both, torch.tensor([i])) for i in (0, 1))
    blank, one = latents.float()[:0], torch.zeros(1, dtype=torch.long)
    moments = Moments(
        latents.float(), time.float().reshape(1), one, blank, blank, one, blank, blank
    )
    batch = Batch(with_base(denoiser, moments, named, other), named)
    lesson = Lesson.__new__(Lesson)
    lesson.denoiser = denoiser
    eraser: Any = build("esd", keep_weight=0.0, **settings)
    trained = {name: w.clone().requires_grad_() for name, w in weights.items()}
    loss = eraser.regression(lesson, trained, batch, Generator())
    picked = chosen(list(trained), "x")
    grads = torch.autograd.grad(loss, [trained[n] for n in picked])
    return loss, dict(zip(picked, grads, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("start", "guidance"), [("concept", 2.0), ("nothing", 1.0)])
def test_todays_target_is_theirs_and_the_papers_at_one_less(
    start: str, guidance: float, dtype: str, denoiser: Denoiser, tmp_path: Path
) -> None:
    edited = open_folder(build_tiny(tmp_path / "other", seed=1)).denoiser()
    assert same(edited.module, STORY["edited"]), "record again"
    weights = {name: edited.weight(name) for name in edited.names()}
    told = {part: HELD[f"today/{dtype}/{part}"] for part in ("latents", "rows")}
    loss, grads = ours(
        denoiser, weights, **told, time=HELD["today/time"], start=start, guidance=guidance
    )
    assert loss.item() == pytest.approx(HELD[f"today/{dtype}/loss"].item(), rel=1e-5)
    for name, grad in grads.items():
        theirs = HELD[f"today/{dtype}/grad/{name.removeprefix('unet/')}"]
        torch.testing.assert_close(grad, theirs.float(), **CLOSE)
        assert theirs.any()
    far, _ = ours(denoiser, weights, **told, time=HELD["today/time"], start=start, guidance=9.0)
    assert far.item() != pytest.approx(loss.item(), rel=1e-3), "the control: guidance matters"


def test_the_papers_target_is_theirs(denoiser: Denoiser) -> None:
    weights = {n: STORY["moved"] * denoiser.weight(n) for n in chosen(denoiser.names(), "x")}
    told = {part: HELD[f"older/{part}"] for part in ("latents", "time", "rows")}
    loss, grads = ours(denoiser, weights, **told, start="nothing", guidance=1.5)
    assert loss.item() == pytest.approx(HELD["older/loss"].item(), rel=1e-4)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, HELD[f"older/grad/{name.removeprefix('unet/')}"], **CLOSE)
    swapped, _ = ours(denoiser, weights, **told, start="concept", guidance=1.5)
    assert swapped.item() != pytest.approx(loss.item(), rel=1e-3), "the control: conventions differ"


def test_x_t_is_theirs(denoiser: Denoiser) -> None:
    """From the same noise over the same times, guided by 3, up to where they stopped."""
    noise = torch.randn(1, *denoiser.shape, generator=Generator().manual_seed(STORY["seed"]))
    rows = said(HELD["today/float32/rows"])
    both = beside(*(said_by(rows, torch.tensor([i])) for i in (1, 0)))
    latents, times = noise, HELD["today/times"].float()
    passed = times[times > HELD["today/time"]]
    for now, then in zip(passed, times[1:], strict=False):
        at = now.expand(2)
        ahead, away = denoiser.predict(latents.repeat(2, 1, 1, 1), at, both).chunk(2)
        clean, found = denoiser.noise.split(latents, at[:1], away + 3.0 * (ahead - away))
        alpha, sigma = denoiser.noise.levels(then.reshape(1))
        latents = alpha * clean + sigma * found
    torch.testing.assert_close(latents, HELD["today/float32/latents"], rtol=1e-4, atol=1e-5)
    assert len(passed)
    assert not torch.allclose(latents, noise, atol=0.1)


def picked(denoiser: Denoiser, layers: Layers) -> set[str]:
    return {name.removeprefix("unet/") for name in chosen(denoiser.names(), layers)}


@pytest.mark.parametrize(
    ("layers", "theirs"),
    [("x", "esd-x"), ("x", "xattn"), ("kv", "esd-x-strict"), ("self", "selfattn")],
)
def test_attention_is_chosen_as_theirs(layers: Layers, theirs: str, denoiser: Denoiser) -> None:
    assert picked(denoiser, layers) == TRAINED[theirs] != set()


def test_the_rest_is_chosen_as_said_among_the_deviations(denoiser: Denoiser) -> None:
    """Theirs leave out norms; their u takes the embedding of time and the last convolution."""
    every = picked(denoiser, "full")
    norms = {n for n in every if "norm" in n}
    ends = {n for n in every if n.startswith(("time_embedding.", "conv_out."))}
    assert TRAINED["esd-all"] == TRAINED["full"] == every - norms
    inner = picked(denoiser, "u")
    assert TRAINED["esd-u"] == TRAINED["noxattn"] == (inner - norms) | ends
    assert norms & inner
    assert ends
    assert not ends & inner
    assert TRAINED["xattn-strict"] == set(), "a slip of theirs: no name has both to_q and to_k"
