"""Receler: erasers that begin as nothing, prompts that are in the prompt, resumed to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor

from efface.adapters import Adapted
from efface.backbones.attention import crossed
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.erasers import find
from efface.lesson import Drawing, Lesson, away
from efface.localized import ELSE, words_of
from efface.moments import Moments, said_by
from efface.patch import Patch, load, stack
from efface.train import Standing
from tests import quick
from tests.elsewhere import elsewhere
from tests.equal import bits, contents, state
from tests.families import build_family
from tests.quick import CONCEPT, Told

RECELER: Any = find("receler")
FEW: dict[str, Any] = {
    "rank": 4,
    "steps": 4,
    "prompts": 4,
    "attack_steps": 2,
    "rate": 1e-2,
}


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> DiffusionPipeline:
    return load_pipeline(str(tiny))


@pytest.fixture(scope="module")
def model(pipe: DiffusionPipeline) -> Model:
    return open_pipeline(pipe)


def fit(model: Model, concept: Concept = CONCEPT, on_step: Told = quiet, **settings: Any) -> Patch:
    return quick.fit("receler", model, concept, on_step=on_step, **{**FEW, **settings})


def erasers(patch: Patch) -> list[Any]:
    return [{n: bits(t) for n, t in gate.tensors.items()} for gate in patch.gates]


def predicted(pipe: DiffusionPipeline, prompt: str = "a cat") -> Tensor:
    model = open_pipeline(pipe)
    denoiser = model.denoiser()
    rng = Generator().manual_seed(1)
    latents = torch.randn(2, *denoiser.shape, generator=rng)
    said = {stream: model.encode([prompt] * 2, stream) for stream in model.streams}
    with torch.no_grad():
        return denoiser.predict(latents, torch.tensor([200.0, 800.0]), said)


def test_an_eraser_that_has_not_learned_changes_no_bit(
    pipe: DiffusionPipeline, model: Model
) -> None:
    patch = fit(model, steps=0)
    assert [g.site for g in patch.gates] == list(crossed(model.denoiser()))
    assert all(g.tensors["down.weight"].any() for g in patch.gates)
    assert torch.equal(predicted(apply(pipe, patch)), predicted(pipe))
    assert max(patch.facts["moved"].values()) < 1e-9


def test_the_view_is_what_was_trained(pipe: DiffusionPipeline, model: Model) -> None:
    """The gates of a loaded patch say what the adapters said that its weights were learned in."""
    patch = fit(model)
    denoiser = Adapted(model.denoiser(), crossed(model.denoiser()))
    latents = torch.randn(2, *denoiser.shape, generator=Generator().manual_seed(1))
    said = {"text": model.encode(["a cat"] * 2)}
    ours = denoiser.predict(latents, torch.tensor([200.0, 800.0]), said, learned(patch))
    assert torch.equal(ours, predicted(apply(pipe, patch)))
    assert (ours - predicted(pipe)).norm() > 1e-2 * ours.norm()


def test_gradients_reach_erasers_alone(pipe: DiffusionPipeline, model: Model) -> None:
    before = state(pipe)
    denoiser = Adapted(model.denoiser(), crossed(model.denoiser()))
    rng = Generator().manual_seed(0)
    weights = denoiser.begun(4, rng)
    weights = {n: (w + 0.1).requires_grad_() for n, w in weights.items()}
    latents = torch.randn(1, *denoiser.shape, generator=rng)
    said = {"text": model.encode(["a cat"])}
    out, added = denoiser.run(latents, torch.tensor([500.0]), said, weights)
    assert set(added) == set(denoiser.widths)
    for grad in torch.autograd.grad(out.square().sum(), list(weights.values())):
        assert grad.any()
    assert not any(p.requires_grad for p in denoiser.module.parameters())
    assert state(pipe) == before
    assert not any(m._forward_hooks for m in denoiser.module.modules())
    assert patch_changes_no_weight(pipe, fit(model))


def patch_changes_no_weight(pipe: DiffusionPipeline, patch: Patch) -> bool:
    view = apply(pipe, patch)
    pairs = zip(view.unet.named_parameters(), pipe.unet.named_parameters(), strict=True)
    return all(a == b and x.data_ptr() == y.data_ptr() for (a, x), (b, y) in pairs)


def test_it_learns_the_target_and_holds_what_is_kept(model: Model) -> None:
    """Over all moments; before, the concept is as far from its target as η + 1 is."""
    long: dict[str, Any] = {"steps": 40, "rank": 32, "rate": 1.5e-3, "as_released": True}
    loose, held = fit(model, **long, keep_weight=0.0), fit(model, **long)
    lesson = Lesson(model, CONCEPT, Drawing(2, 4, 3.0), 4, Generator().manual_seed(0), quiet)
    moments = lesson.erased.moments
    said, goal = said_by(lesson.named, moments.pair), away(moments, 1.0, "nothing")
    denoiser = Adapted(lesson.denoiser, crossed(lesson.denoiser))

    def far(patch: Patch) -> float:
        with torch.no_grad():
            out = denoiser.predict(*moments[:2], said, learned(patch))
        return (out - goal).square().sum().item()

    says = (moments.named - moments.other).square().sum().item()
    assert far(fit(model, steps=0)) == pytest.approx(4 * says, rel=1e-3)
    assert far(loose) < 0.7 * 4 * says
    assert held.facts["moved"]["kept"] < 0.7 * loose.facts["moved"]["kept"]
    limit = 0.5 * loose.facts["moved"]["kept"]
    stopped = fit(model, **long, most_moved=limit, keep_weight=0.0)
    assert stopped.facts["moved"]["kept"] <= limit
    assert stopped.facts["steps"] < 40
    assert "limit" in stopped.facts["stopped"]


def learned(patch: Patch) -> dict[str, Tensor]:
    """Its adapters' weights by name."""
    return {f"{g.site}/{n}": t.float() for g in patch.gates for n, t in g.tensors.items()}


def test_outside_of_the_concept_erasers_are_held(model: Model) -> None:
    """At τ = 1 all but the brightest place is outside; a great weight keeps the erasers small."""

    def strength(weight: float) -> float:
        patch = fit(model, steps=10, threshold=1.0, local_weight=weight, keep_weight=0.0)
        return sum(g.tensors["up.weight"].float().square().sum().item() for g in patch.gates)

    assert strength(1e3) < 0.5 * strength(0.0)


def test_the_mask_begins_at_the_threshold(model: Model) -> None:
    """At τ = 0 all is the concept's, at 1 the brightest place alone."""
    lesson = Lesson(model, CONCEPT, Drawing(2, 4, 3.0), 4, Generator().manual_seed(0), quiet)
    batch = lesson.batch({}, 0, 2, Generator().manual_seed(2))
    words = words_of(lesson.named["text"], model.encode([ELSE]))
    all_of_it, some, least = (
        torch.cat(list(RECELER(threshold=t).inside(lesson.denoiser, batch, words).values()), 1)
        for t in (0.0, 0.1, 1.0)
    )
    assert all_of_it.all()
    assert ((least <= some) & (some <= all_of_it)).all()
    assert 0 < least.mean() < some.mean() < 1


@pytest.mark.parametrize("attacked", [0.5, 1.0])
def test_prompts_are_in_the_prompt(model: Model, attacked: float) -> None:
    """What the released code misses: other learned rows, other erasers."""
    real, released = fit(model, attacked=attacked), fit(model, as_released=True)
    assert erasers(real) != erasers(released)
    assert erasers(fit(model, attacked=attacked, attack_rate=1.0)) != erasers(real)
    assert erasers(fit(model, as_released=True, attack_rate=1.0)) == erasers(released)
    assert erasers(fit(model, attack_steps=0)) == erasers(released)


@pytest.mark.parametrize("redraw", [0, 3])
@pytest.mark.parametrize("at", [1, 5])
def test_killed_and_resumed_is_bit_exact(
    at: int, redraw: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adversary goes on where it stood, too: its rows and its Adam are in the standing."""
    settings: dict[str, Any] = {"steps": 8, "redraw": redraw, "attack_steps": 3}
    whole = fit(model, **settings)
    monkeypatch.setattr(Standing, "due", lambda self: True)

    def kill(what: str, step: int, of: int) -> None:
        if what == "training" and step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, on_step=kill, **settings)
    steps = list[int]()
    again = fit(
        model,
        on_step=lambda what, step, of: steps.append(step) if what == "training" else None,
        **settings,
    )
    assert steps[0] == (at // redraw * redraw if redraw else at)
    assert contents(again) == contents(whole)


def test_saved_loaded_stacked_and_reverted(
    pipe: DiffusionPipeline, model: Model, tmp_path: Path
) -> None:
    patch, path = fit(model), tmp_path / "p.safetensors"
    patch.save(path)
    assert contents(load(path)) == contents(patch)
    numbers = sum(t.numel() for g in patch.gates for t in g.tensors.values())
    assert patch.facts["trained"] == numbers
    assert 2 * numbers <= path.stat().st_size < 2 * numbers + 20_000
    plain, before = predicted(pipe), state(pipe)
    dog = fit(model, Concept("dog", ("dog",), keep=("house",)))
    one, other = predicted(apply(pipe, patch, dog)), predicted(apply(pipe, dog, patch))
    assert torch.equal(predicted(apply(pipe, stack([patch, dog]))), one)
    assert torch.equal(predicted(apply(apply(pipe, patch), dog)), one)
    assert not torch.equal(one, other), "each reads what the one before it puts out"
    torch.testing.assert_close(one, other, rtol=0.5, atol=0.5)
    assert torch.equal(predicted(pipe), plain)
    assert state(pipe) == before
    with pytest.raises(EffaceError, match="only strength 1"):
        patch.scale(0.5)


def test_stacks_with_a_map_either_way(
    pipe: DiffusionPipeline, model: Model, tiny_patch: Path
) -> None:
    patch, mapped = fit(model), load(tiny_patch)
    one, other = predicted(apply(pipe, patch, mapped)), predicted(apply(pipe, mapped, patch))
    assert torch.equal(one, other), "a map changes weights, a gate none"
    assert not torch.equal(one, predicted(apply(pipe, patch)))
    assert not torch.equal(one, predicted(apply(pipe, mapped)))


@pytest.mark.parametrize("name", ["sdxl", "pixart", "pixart-sigma", "sana"])
def test_other_families(name: str, tmp_path: Path) -> None:
    folder = build_family(name, tmp_path / name)
    patch = fit(open_folder(folder), steps=3)
    pipe = load_pipeline(str(folder))
    moved = predicted(apply(pipe, patch)) - predicted(pipe)
    assert moved.norm() > 1e-4 * predicted(pipe).norm()
    assert patch.facts["trained"] == sum(
        2 * 4 * d + 4 + d for d in crossed(open_folder(folder).denoiser()).values()
    )


def test_it_learns_where_the_model_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that refuses tensors of another: the same erasers, but for rounding."""

    def at(moments: Moments, index: Tensor) -> Moments:
        """CUDA takes indices that are on the CPU; that device does not."""
        old = {k: getattr(moments, k) for k in moments._fields[:6]}
        return moments._replace(**{k: t[index.to(t.device)] for k, t in old.items()})

    monkeypatch.setattr(Moments, "at", at)
    pipe = load_pipeline(str(tiny))
    here = fit(open_pipeline(pipe), steps=2)
    parts = [p for p in pipe.components.values() if isinstance(p, torch.nn.Module)]
    with elsewhere(*parts):
        there = fit(open_pipeline(pipe), steps=2)
        apply(pipe, there)("a cat", num_inference_steps=1, output_type="latent")
    for one, other in zip(here.gates, there.gates, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=0.1, atol=1e-2)


def test_where_it_does_not_apply_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match=r"no cross-attention of its own.*erase with rece"):
        fit(open_folder(build_family("sd3", tmp_path / "sd3")))
    with pytest.raises(EffaceError, match=r"FLUX.1 was distilled"):
        fit(open_folder(build_family("flux", tmp_path / "flux")))


def test_bad_settings_are_refused() -> None:
    for name, value in {
        "rank": 0, "prompts": 0, "attack_rate": 0.0, "attacked": 0.0, "threshold": 1.1,
        "local_weight": -1.0, "attack_steps": -1, "batch": 0,
    }.items():  # fmt: skip
        with pytest.raises(EffaceError, match=f"{name}.*{value}"):
            RECELER(**{name: value})
