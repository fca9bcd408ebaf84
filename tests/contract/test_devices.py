"""Every eraser and attack computes where the model is: on a device that refuses to mix, and CUDA.

What they come to there is what they come to here, but for the order in which sums are taken.
"""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from efface import attacks, erasers
from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.linalg import LowRank
from efface.patch import Patch, load
from tests.contract.test_attacks import case, picture, play
from tests.contract.test_erasers import Method, fit, label, methods
from tests.test_devices import PLACES, Place, parts

__all__ = ["picture"]
CLOSED = ("uce", "rece", "speed")
"""Erasers whose maps are solved for: near each other wherever they are."""
PLAIN = [method for method in methods() if label(method) == method.name]


@pytest.fixture(scope="module")
def here(tiny: Path) -> DiffusionPipeline:
    """A pipeline of its own, which goes to other places and comes back."""
    return load_pipeline(str(tiny))


def shapes(patch: Patch) -> list[object]:
    gates = [(g.site, g.kind, {n: t.shape for n, t in g.tensors.items()}) for g in patch.gates]
    edits = [(e.param, e.op, None if e.a is None else e.a.shape) for e in patch.edits]
    return [*gates, *edits, *((m.encoder, m.a.shape[0], m.b.shape[0]) for m in patch.maps)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", PLAIN, ids=label)
def test_fitted_where_the_model_is(
    method: Method,
    place: Place,
    here: DiffusionPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "here"))
    wanted = fit(method, here)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "there"))
    with place(*parts(here)):
        found = fit(method, here)
        view = apply(here, found)
        assert view.device == here.device
    assert found.base == wanted.base
    assert shapes(found) == shapes(wanted)
    if method.name in CLOSED:
        for one, other in zip(found.maps, wanted.maps, strict=True):
            near = [LowRank(m.a.cpu(), m.b.cpu()).dense() for m in (one, other)]
            torch.testing.assert_close(*near, rtol=1e-3, atol=1e-3)


def test_every_eraser_is_tried() -> None:
    assert {method.name for method in PLAIN} == set(erasers.REGISTRY)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", attacks.REGISTRY)
def test_searched_where_the_model_is(
    name: str,
    place: Place,
    here: DiffusionPipeline,
    tiny_patch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    view = apply(here, load(tiny_patch))
    both = [*parts(here), *(p for p in parts(view) if p not in parts(here))]
    with place(*both):
        pair = (open_pipeline(view, frozen=True), open_pipeline(here, frozen=True))
        asked = play(name, pair)
    first = case(name)
    assert all((c.steps, c.guidance) == (first.steps, first.guidance) for c in asked)
    assert all(isinstance(c.embeds, Tensor | None) for c in asked)
