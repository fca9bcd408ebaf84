"""The model's device is the model's: what is computed with its tensors is made where they are.

Run on a device that is not there (`tests.elsewhere`), which refuses to mix, and on CUDA if it is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import efface
from efface.backbones import encoders, merge
from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.pipeline import apply, draw, load_pipeline
from efface.core import Case, quiet
from efface.detectors.judge import Judge, tuning
from efface.linalg import LowRank
from efface.patch import Patch
from tests.elsewhere import elsewhere
from tests.families import NAMES, build_family

Place = Callable[..., AbstractContextManager[None]]


@contextmanager
def cuda(*modules: torch.nn.Module) -> Iterator[None]:
    """The modules are on the first CUDA device while the block runs."""
    try:
        for module in modules:
            module.to("cuda")
        yield
    finally:
        for module in modules:
            module.to("cpu")


PLACES = [
    pytest.param(elsewhere, id="elsewhere"),
    pytest.param(
        cuda,
        id="cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ),
]


def parts(pipe: DiffusionPipeline) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


CASE = Case("cat", 3, steps=2)


def picture(pipe: DiffusionPipeline, case: Case = CASE) -> Any:
    return np.asarray(draw(pipe, [case], quiet)[0], int)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> DiffusionPipeline:
    return load_pipeline(str(tiny))


@pytest.fixture(scope="module")
def patch(tiny: Path) -> Patch:
    return efface.erase(tiny, "cat", method="uce", keep=["dog"])


@pytest.mark.parametrize("place", PLACES)
def test_erased_applied_and_drawn(place: Place, pipe: DiffusionPipeline, patch: Patch) -> None:
    before, after = picture(pipe), picture(apply(pipe, patch))
    soft = Case("", 3, 2, embeds=open_pipeline(pipe).encode(["cat"]).states[0])
    with place(*parts(pipe)):
        there = pipe.device
        assert there.type != "cpu"
        found = efface.erase(pipe, "cat", method="uce", keep=["dog"])
        assert found.base == patch.base
        view = apply(pipe, found)
        old, new = (dict(p.unet.named_parameters()) for p in (pipe, view))
        assert {p.device for p in new.values()} == {there}
        changed = {f"unet/{n}" for n in old if old[n] is not new[n]}
        assert changed == set(open_pipeline(pipe).where)
        drawn = picture(pipe), picture(view), picture(pipe, soft)
    one, other = (LowRank(m.a, m.b).dense() for p in (found, patch) for m in p.maps)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for here, where in zip((before, after, before), drawn, strict=True):
        assert np.abs(here - where).max() <= 2
    assert np.abs(before - after).max() > 2
    assert pipe.device.type == "cpu"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_read_and_merged(name: str, place: Place, tmp_path: Path) -> None:
    folder = build_family(name, tmp_path / name)
    patch, pipe = efface.erase(folder, "cat", method="uce", keep=[]), load_pipeline(str(folder))
    here = open_folder(folder)
    with place(*parts(pipe)):
        model = open_pipeline(pipe)
        for stream in model.streams:
            found, meant = model.encode(["a cat"], stream), here.encode(["a cat"], stream)
            torch.testing.assert_close(found.states, meant.states, rtol=1e-4, atol=1e-4)
        tensors = dict(getattr(apply(pipe, patch), model.component).named_parameters())
        assert {tensors[n.partition("/")[2]].device for n in model.where} == {pipe.device}


@pytest.mark.parametrize("place", PLACES)
def test_judged(place: Place, pipe: DiffusionPipeline) -> None:
    judge, pictures = tuning(), draw(pipe, [Case("cat", 0, steps=1)], quiet)
    here = judge.scores(pictures)["concept"]
    with place(judge.model):
        torch.testing.assert_close(judge.scores(pictures)["concept"], here, rtol=1e-3, atol=1e-4)


def _encode(self: Any, words: Any, *, masked: bool, **options: Any) -> Any:
    return self.model(words.ids, **options)


def _merge(self: Any, name: str, old: Any) -> Any:
    return self._changed(name, old).to(old.dtype)


def _scores(self: Any, pictures: Any) -> Any:
    return self.model(self._prepare(pictures))


def judged(pipe: DiffusionPipeline, _: Patch) -> Any:
    judge: Judge = tuning()
    with elsewhere(judge.model):
        return judge.scores([Image.new("RGB", (64, 64))])


MUTANTS: dict[str, tuple[Any, str, Any, Callable[[Any, Patch], Any]]] = {
    "encode": (encoders.Encoder, "run", _encode, lambda p, _: open_pipeline(p).encode(["cat"])),
    "apply": (merge.Merge, "weight", _merge, lambda p, patch: picture(apply(p, patch))),
    "judge": (Judge, "scores", _scores, judged),
}
"""What creates a tensor on the CPU where the model's device is meant, and where that shows."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_tensor_left_on_the_cpu_is_caught(
    mutant: str, pipe: DiffusionPipeline, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, name, wrong, use = MUTANTS[mutant]
    with elsewhere(*parts(pipe)):
        use(pipe, patch)
        monkeypatch.setattr(home, name, wrong)
        with pytest.raises(RuntimeError, match="expected all tensors on"):
            use(pipe, patch)


def compiled_whole(module: Any) -> Any:
    return torch.compile(module, backend="eager")


def compiled_in_place(module: Any) -> Any:
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_place])
def test_a_compiled_denoiser(compiled: Callable[[Any], Any], tiny: Path, patch: Patch) -> None:
    pipe = load_pipeline(str(tiny))
    before, after = picture(pipe), picture(apply(pipe, patch))
    pipe.unet = compiled(pipe.unet)
    assert open_pipeline(pipe).fingerprint == patch.base
    assert np.abs(picture(pipe) - before).max() <= 1
    view = apply(pipe, patch)
    assert np.abs(picture(view) - after).max() <= 1
    view.unet = compiled(view.unet)
    assert np.abs(picture(view) - after).max() <= 1
