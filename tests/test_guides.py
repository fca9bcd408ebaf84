"""Guidance-time baselines: a negative prompt is one, SLD is its formula, networks keep theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import efface
from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.erasers import build
from efface.export import export_folder
from efface.patch import Patch, load, stack
from tests.equal import contents, state
from tests.families import build_family

CONCEPT = Concept("cat", ("cat",), keep=("house",))
STEPS = 4


def fit(pipe: Any, method: str, preset: str | None = None, **settings: Any) -> Patch:
    eraser = build(method, preset, **settings)
    return eraser.fit(open_pipeline(pipe), CONCEPT, Generator().manual_seed(0), quiet)


def picture(pipe: Any, prompt: str = "a cat", guidance: float = 5.0) -> bytes:
    drawn = efface.draw(pipe, [prompt], steps=STEPS, guidance=guidance)[0]
    return bytes(drawn.tobytes())


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "pixart"])
def test_it_is_the_pipelines_negative_prompt(name: str, tmp_path: Path) -> None:
    pipe = load_pipeline(str(build_family(name, tmp_path / name)))
    erased = apply(pipe, fit(pipe, "negative"))
    side = pipe.vae_scale_factor * open_pipeline(pipe).denoiser().shape[1]
    told = {"num_inference_steps": 2, "guidance_scale": 4.0, "height": side, "width": side}
    told |= {"use_resolution_binning": False} if name == "pixart" else {}

    def drawn(where: Any, **more: str) -> bytes:
        rng = Generator().manual_seed(1)
        return bytes(where("a house", generator=rng, **told, **more).images[0].tobytes())

    assert drawn(erased) == drawn(pipe, negative_prompt="cat") != drawn(pipe)
    assert drawn(erased, negative_prompt="tree") == drawn(erased), "the user's gives way"


@torch.no_grad()
def literal(pipe: Any, guidance: float, eraser: Any) -> Tensor:
    """The paper's loop with γ inside the brackets, on the library's U-Net and scheduler."""
    model = open_pipeline(pipe)
    said = (model.encode([p]).states for p in ("", "a cat", "cat"))
    empty, prompt, concept = (states.to(pipe.device) for states in said)
    pipe.scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8, generator=Generator().manual_seed(0)).to(pipe.device)
    nu = torch.zeros_like(latents)
    for i, time in enumerate(pipe.scheduler.timesteps):
        e_u, e_p, e_s = (pipe.unet(latents, time, r).sample for r in (empty, prompt, concept))
        mu = torch.clamp(eraser.scale * (e_p - e_s).abs(), max=1)
        mu[e_p - e_s >= eraser.threshold] = 0
        gamma = mu * (e_s - e_u) + eraser.momentum_scale * nu
        nu = eraser.momentum_decay * nu + (1 - eraser.momentum_decay) * gamma
        toward = e_p - e_u - (gamma if i >= eraser.warmup else 0)
        latents = pipe.scheduler.step(e_u + guidance * toward, time, latents).prev_sample
    found: Tensor = latents
    return found


@pytest.mark.parametrize("guidance", [2.0, 7.5])
def test_sld_is_the_papers_loop(guidance: float, pipe: Any) -> None:
    eraser = build("sld", scale=3.0, threshold=0.5, warmup=1, momentum_scale=0.5)
    patch = eraser.fit(open_pipeline(pipe), CONCEPT, Generator().manual_seed(0), quiet)

    def latents(where: Any) -> Tensor:
        found: Tensor = where(
            "a cat",
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=Generator().manual_seed(0),
            output_type="latent",
        ).images
        return found

    want = literal(pipe, guidance, eraser)
    torch.testing.assert_close(latents(apply(pipe, patch)), want, rtol=1e-3, atol=1e-3)
    assert (latents(pipe) - want).abs().max() > 0.1


def test_without_scale_or_within_warm_up_it_is_plain_guidance(pipe: Any) -> None:
    plain = picture(pipe)
    assert picture(apply(pipe, fit(pipe, "sld", scale=0.0, warmup=0))) == plain
    assert picture(apply(pipe, fit(pipe, "sld", "max", warmup=STEPS))) == plain
    assert picture(apply(pipe, fit(pipe, "sld", "max"))) != plain


@pytest.mark.parametrize("method", ["negative", "sld"])
def test_drawings_do_not_depend_on_one_another(method: str, pipe: Any) -> None:
    erased = apply(pipe, fit(pipe, method, "max" if method == "sld" else None))
    once = picture(erased)
    picture(erased, "a house")
    assert picture(erased) == once


@pytest.mark.parametrize("method", ["negative", "sld"])
def test_unguided_drawing_and_networks_are_untouched(method: str, pipe: Any) -> None:
    before = state(pipe)
    erased = apply(pipe, fit(pipe, method, "max" if method == "sld" else None))
    assert state(pipe) == before
    assert picture(erased, guidance=1.0) == picture(pipe, guidance=1.0)
    assert picture(erased) != picture(pipe)
    module = open_pipeline(erased).denoiser().module
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    for one, other in zip(pipe.unet.parameters(), erased.unet.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()


def test_saved_stacked_reverted_and_refused(pipe: Any, tiny: Path, tmp_path: Path) -> None:
    patch, words = fit(pipe, "sld", "max"), efface.erase(pipe, "dog", method="uce")
    patch.save(tmp_path / "p.safetensors")
    read = load(tmp_path / "p.safetensors")
    assert contents(read) == contents(patch)
    assert picture(apply(pipe, read)) == picture(apply(pipe, patch))
    both = picture(apply(pipe, read, words))
    assert both == picture(apply(pipe, words, read)) == picture(apply(pipe, stack([words, read])))
    assert both == picture(apply(apply(pipe, read), words)), "the hook goes with the view"
    assert both not in (picture(apply(pipe, read)), picture(apply(pipe, words)))
    assert picture(apply(pipe, words)) == picture(apply(pipe, *[words]))
    with pytest.raises(EffaceError, match="only strength 1"):
        patch.scale(0.5)
    with pytest.raises(EffaceError, match="cannot be written into its weights"):
        export_folder(tiny, [patch], tmp_path / "out", quiet)


def test_another_family_is_told_apart(pipe: Any, tmp_path: Path) -> None:
    other = open_folder(build_family("sdxl", tmp_path / "sdxl"))
    patch = build("sld").fit(other, CONCEPT, Generator().manual_seed(0), quiet)
    assert {*patch.gates[0].tensors} == {"text", "pooled", "text.attended"}
    with pytest.raises(EffaceError, match="fitted on base"):
        apply(pipe, patch)


def test_bad_settings_and_damaged_gates_are_refused() -> None:
    from dataclasses import replace

    from efface.core import Gate
    from efface.gates import build as build_gate

    wrong: dict[str, Any]
    for wrong in (
        {"scale": -1.0},
        {"warmup": -1},
        {"momentum_scale": 2.0},
        {"momentum_decay": 1.0},
    ):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            build("sld", **wrong)
    rows = {"text": torch.zeros(1, 4, 3), "text.attended": torch.ones(1, 4, dtype=torch.bool)}
    gate = Gate("unet/", "sld", "", {"scale": 1}, rows)
    with pytest.raises(EffaceError, match="has no number 'threshold'"):
        build_gate(gate)
    with pytest.raises(EffaceError, match="does not bring the rows of one prompt"):
        build_gate(replace(gate, kind="negative", tensors={"text": torch.zeros(2, 4, 3)}))
    build_gate(replace(gate, kind="negative"))
