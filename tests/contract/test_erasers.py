"""What every eraser promises, whatever its paper: run over the registry and all presets."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor

from efface import erasers
from efface.backbones.merge import Merge
from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, Edit, EffaceError, PromptMap, quiet
from efface.patch import Patch, load
from efface.settings import describe
from tests.equal import contents, state
from tests.tiny import build_tiny

CONCEPT = Concept("cat", ("cat", "a cat"), ("dog",), ("house", "tree"))


Fitted = Callable[["Method"], Patch]


class Method(NamedTuple):
    """One eraser under test."""

    name: str
    preset: str | None
    settings: Mapping[str, Any]

    def build(self) -> erasers.Eraser:
        return erasers.build(self.name, self.preset, **self.settings)


def methods() -> list[Method]:
    """Every preset, and every value of every setting that is a choice: each is its own path."""
    found = []
    for name in erasers.REGISTRY:
        found += [Method(name, preset, {}) for preset in (None, *erasers.presets(name))]
        for setting in describe(erasers.find(name)):
            if setting.name in inherited(name):
                continue
            choices = [k for k in setting.kinds if isinstance(k, str) and k != setting.default]
            found += [Method(name, None, {setting.name: choice}) for choice in choices]
    return [m._replace(settings={**_quick(m), **m.settings}) for m in found]


def inherited(name: str) -> set[str]:
    """Settings that are another method's, where they are tried."""
    own, known = erasers.find(name), [erasers.find(n) for n in erasers.REGISTRY]
    parents = [m for m in known if m is not own and issubclass(own, m)]
    return {s.name for parent in parents for s in describe(parent)}


def _quick(method: Method) -> dict[str, Any]:
    """What keeps a fit short, and makes it do something at all."""
    if method.name == "rece":  # the automatic mode stops before its first epoch on the tiny model
        return {"epochs": 1} if method.settings else {}
    if method.name == "fsu":  # it ascends without a bound: small steps, or nothing stands
        return {"steps": 20, "rate": 1e-3, "drawings": 2, "drawing_steps": 4}
    known = {s.name for s in describe(erasers.find(method.name))}
    logits = {"rate": 2.0} if "sparsity" in known else {}  # of a mask: they begin far from pruning
    return {k: v for k, v in SHORT.items() if k in known} | logits


TRAINED = ("ablation", "esd", "pac", "pesd", "race", "receler")
"""They need a model whose words part: see test_kept_words."""
SHORT = {
    "steps": 4,
    "erase_steps": 2,
    "attack_steps": 2,
    "rate": 1e-2,
    "drawings": 2,
    "drawing_steps": 4,
    "keep_drawings": 4,
    "pairs": 2,
    "calls": 2,
    "warmup": 0,
}
"""Settings of a training of a second."""


def label(method: Method) -> str:
    return "-".join(
        [
            method.name,
            *([method.preset] if method.preset else []),
            *[v for v in method.settings.values() if isinstance(v, str)],
        ]
    )


every_method = pytest.mark.parametrize("method", methods(), ids=label)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    """The same shapes, other weights."""
    return load_pipeline(str(build_tiny(tmp_path_factory.mktemp("other") / "tiny", seed=1)))


@pytest.fixture(scope="module")
def fitted(pipe: DiffusionPipeline) -> Fitted:
    """Each method's patch, fitted once."""
    known: dict[str, Patch] = {}

    def once(method: Method) -> Patch:
        if label(method) not in known:
            known[label(method)] = fit(method, pipe)
        return known[label(method)]

    return once


def fit(method: Method, pipe: DiffusionPipeline) -> Patch:
    rng = Generator().manual_seed(0)
    return method.build().fit(open_pipeline(pipe), CONCEPT, rng, quiet)


def predicted(pipe: DiffusionPipeline, prompt: str) -> Tensor:
    """The denoiser's guided prediction from fixed noise, called as pipelines call it."""
    unet = pipe.unet
    side = unet.config.sample_size
    noise = torch.randn(1, 4, side, side, generator=Generator().manual_seed(0)).to(pipe.device)
    noise = noise.repeat(2, 1, 1, 1)
    rows = open_pipeline(pipe).encode(["", prompt]).states.to(pipe.device)
    with torch.no_grad():
        empty, said = unet(noise, 500, encoder_hidden_states=rows, return_dict=False)[0].chunk(2)
    return empty + 2 * (said - empty)


@every_method
def test_fit_leaves_the_model_alone(method: Method, pipe: DiffusionPipeline) -> None:
    before, fingerprint = state(pipe), open_pipeline(pipe).fingerprint
    patch = fit(method, pipe)
    assert patch.base == fingerprint == open_pipeline(pipe).fingerprint
    assert state(pipe) == before
    assert not any(t.requires_grad for t in tensors(patch))


def test_fit_leaves_the_folder_alone(tiny: Path) -> None:
    def digests() -> dict[Path, str]:
        files = [f for f in tiny.rglob("*") if f.is_file()]
        return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    before = digests()
    for method in (m for m in methods() if not m.preset):
        method.build().fit(open_folder(tiny), CONCEPT, Generator().manual_seed(0), quiet)
    assert digests() == before


def tensors(patch: Patch) -> list[Tensor]:
    parts: list[PromptMap | Edit] = [*patch.maps, *patch.edits]
    gated = [t for gate in patch.gates for t in gate.tensors.values()]
    return [t for part in parts for t in (part.a, part.b) if t is not None] + gated


@every_method
def test_same_settings_same_patch(method: Method, pipe: DiffusionPipeline, fitted: Fitted) -> None:
    torch.rand(1)  # a method that drew from the global generator would differ
    assert contents(fit(method, pipe)) == contents(fitted(method))


@every_method
def test_saved_and_loaded_is_equal(method: Method, fitted: Fitted, tmp_path: Path) -> None:
    patch = fitted(method)
    patch.save(tmp_path / "p.safetensors")
    assert contents(load(tmp_path / "p.safetensors")) == contents(patch)


@every_method
def test_erased_model_predicts_otherwise(
    method: Method, pipe: DiffusionPipeline, fitted: Fitted
) -> None:
    base = predicted(pipe, "a cat")
    erased = predicted(apply(pipe, fitted(method)), "a cat")
    assert (erased - base).norm() > 1e-3 * base.norm()


def test_identity_patch_predicts_the_same(pipe: DiffusionPipeline) -> None:
    model = open_pipeline(pipe)
    width = len(model.gram())
    nothing = PromptMap("text", torch.zeros(width, 1), torch.ones(width, 1))
    empty = PromptMap("text", torch.zeros(width, 0), torch.zeros(width, 0))
    for maps in ((), (nothing,), (empty,)):
        same = apply(pipe, Patch(CONCEPT, {"name": "nothing"}, model.fingerprint, maps))
        assert torch.equal(predicted(same, "a cat"), predicted(pipe, "a cat"))


GUIDING = ("negative", "sld")
"""Baselines that weigh on every prompt, and least on one that is the concept's own words."""


@pytest.mark.parametrize("name", [n for n in erasers.REGISTRY if n not in (*TRAINED, *GUIDING)])
def test_kept_words_move_less_than_the_concept(
    name: str, pipe: DiffusionPipeline, fitted: Fitted
) -> None:
    [plain] = [m for m in methods() if m.name == name and label(m) == name]
    erased = apply(pipe, fitted(plain))

    def moved(prompt: str) -> float:
        base = predicted(pipe, prompt)
        return float((predicted(erased, prompt) - base).norm() / base.norm())

    assert moved("house") < moved("cat")


@every_method
def test_wrong_base_is_refused(method: Method, fitted: Fitted, other: DiffusionPipeline) -> None:
    patch = fitted(method)
    with pytest.raises(EffaceError, match=rf"{patch.base}.*{open_pipeline(other).fingerprint}"):
        apply(other, patch)
    model = open_pipeline(other)
    with pytest.raises(EffaceError, match="fitted on base"):
        Merge([patch], model.fingerprint, model.where, model.where)


@every_method
def test_settings_rebuild_the_eraser(method: Method, fitted: Fitted, tmp_path: Path) -> None:
    fitted(method).save(tmp_path / "p.safetensors")
    settings = dict(load(tmp_path / "p.safetensors").eraser)
    assert settings.pop("name") == method.name
    assert erasers.build(method.name, **settings) == method.build()


@pytest.mark.parametrize("name", erasers.REGISTRY)
def test_every_setting_is_explained(name: str) -> None:
    settings = describe(erasers.find(name))
    fields: tuple[Any, ...] = dataclasses.fields(erasers.find(name))  # type: ignore[arg-type]
    assert [s.name for s in settings] == [f.name for f in fields]
    assert not [s.name for s in settings if len(s.text) < 10]


@pytest.mark.parametrize("name", erasers.REGISTRY)
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(EffaceError, match="no setting 'colour'"):
        erasers.build(name, colour="red")
    with pytest.raises(EffaceError, match=r"no preset 'none such': choose one of \w"):
        erasers.build(name, "none such")
    found = describe(erasers.find(name))
    wrong: dict[str, Any]
    known = {s.name for s in found}
    for field in {"ridge", "rate", "margin"} & known or {"ratio"} & known:
        wrong = {field: 0.0}
        with pytest.raises(EffaceError, match=field):
            erasers.build(name, **wrong)
    for field in (s.name for s in found if float in s.kinds):
        wrong = {field: float("nan")}
        with pytest.raises(EffaceError, match="none of these"):
            erasers.build(name, **wrong)
