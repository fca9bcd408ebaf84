"""The door to the live denoiser: as the pipeline runs it, on shared storage, never changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from efface.backbone import Backbone, Denoiser, Noise
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.noise import Diffusion, Flow, noise_of
from efface.backbones.open import open_file
from efface.backbones.pipeline import load_pipeline
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError
from efface.moments import say
from tests.equal import state
from tests.families import NAMES, build_family
from tests.twins import build_twins

TRAINED = [n for n in NAMES if n != "flux"]
FLOWS = ("sd3", "sana")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return lambda name: built(root / name, name)


def built(path: Path, name: str) -> Path:
    return path if path.exists() else build_family(name, path)


class Heard:
    """What a pipeline's denoiser was last given, and what it said."""

    latents: Tensor
    time: Tensor
    output: Tensor


def heard(pipe: DiffusionPipeline, model: Model, prompt: str) -> Heard:
    """One step of the pipeline itself, with guidance."""
    found = Heard()

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        found.latents = args[0] if args else kwargs["hidden_states"]
        found.time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        found.output = output[0]

    handle = getattr(pipe, model.component).register_forward_hook(hook, with_kwargs=True)
    high, wide = model.denoiser().pixels
    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 3.0, "height": high}
    if model.kind.name in ("pixart", "pixart-sigma", "sana"):
        options |= {"use_resolution_binning": False}
    options |= {"output_type": "latent", "negative_prompt": "", "width": wide}
    with torch.no_grad():
        pipe(prompt, generator=Generator().manual_seed(0), **options)
    handle.remove()
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_predicts_what_the_pipeline_asks_for(name: str, folder: Callable[[str], Path]) -> None:
    pipe = load_pipeline(str(folder(name)))
    model = open_folder(folder(name))
    denoiser = model.denoiser()
    scale = getattr(denoiser.module.config, "timestep_scale", 1.0)
    there = heard(pipe, model, "a cat")
    times = (there.time.float() / scale).expand(2)
    ours = denoiser.predict(there.latents, times, say(model, ["", "a cat"]))
    assert tuple(there.latents.shape[1:]) == denoiser.shape
    torch.testing.assert_close(ours, there.output[:, : denoiser.shape[0]], rtol=1e-4, atol=1e-5)
    told = denoiser.predict(there.latents[:1], times[:1], say(model, ["a cat"]))
    other = denoiser.predict(there.latents[:1], times[:1], say(model, ["a house"]))
    assert (told - other).norm() > 1e-3 * told.norm(), "the prompt does not matter: no test at all"


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_rows_and_handed_weights_alone(
    name: str, folder: Callable[[str], Path]
) -> None:
    pipe = load_pipeline(str(folder(name)))
    model = open_pipeline(pipe)
    said = dict(say(model, ["a cat"]))  # text encoders hang hooks on themselves the first time
    before = state(pipe)
    denoiser = model.denoiser()
    assert isinstance(model, Backbone)
    assert isinstance(denoiser, Denoiser)
    assert isinstance(denoiser.noise, Noise)
    chosen = denoiser.names()[-1]
    weight = denoiser.weight(chosen).detach().clone().requires_grad_()
    rows = said["text"].states.clone().requires_grad_()
    said["text"] = said["text"]._replace(states=rows)
    latents = torch.randn(1, *denoiser.shape, generator=Generator().manual_seed(0))
    args = (latents, torch.full((1,), 500.0), said)
    out = denoiser.predict(*args, {chosen: weight})
    for grad in torch.autograd.grad(out.square().sum(), [rows, weight]):
        assert grad.abs().sum() > 0
    assert not any(p.requires_grad for p in denoiser.module.parameters())
    changed = denoiser.predict(*args, {chosen: weight + 0.1})
    assert not torch.allclose(out, changed)
    assert torch.equal(denoiser.predict(*args), out)
    held = {p.data_ptr() for p in getattr(pipe, model.component).parameters()}
    assert {p.data_ptr() for p in denoiser.module.parameters()} == held
    assert state(pipe) == before


def test_flux_is_refused(folder: Callable[[str], Path]) -> None:
    model = open_folder(folder("flux"))
    with pytest.raises(EffaceError, match=r"FLUX.1 was distilled .* erase with rece or uce"):
        model.denoiser()


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    model = open_file(SingleFile(build_twins("sd1", tmp_path).file))
    with pytest.raises(EffaceError, match=r"is a single file, and methods that train"):
        model.denoiser()


@pytest.mark.parametrize("output", ["epsilon", "v_prediction", "sample"])
def test_split_and_joined_are_inverse(output: str) -> None:
    noise = noise_of("DDIMScheduler", {"prediction_type": output})
    check_inverse(noise, torch.tensor([0.0, 300.0, 999.0]))


def test_flow_split_and_joined_are_inverse() -> None:
    check_inverse(noise_of("FlowMatchEulerDiscreteScheduler", {}), torch.tensor([10.0, 1000.0]))


def check_inverse(noise: Diffusion | Flow, times: Tensor) -> None:
    rng = Generator().manual_seed(0)
    clean, added = torch.randn(2, len(times), 4, 2, 2, generator=rng)
    alpha, sigma = noise.levels(times)
    found = noise.split(alpha * clean + sigma * added, times, noise.joined(clean, added, times))
    torch.testing.assert_close(found[0], clean, rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], added, rtol=0, atol=1e-3)


def test_other_outputs_are_refused() -> None:
    with pytest.raises(EffaceError, match="predicts 'score'"):
        noise_of("DDIMScheduler", {"prediction_type": "score"})


@pytest.mark.parametrize("output", ["epsilon", "v_prediction"])
def test_a_step_is_ddims(output: str) -> None:
    """α' x₀ + σ' ε against the library's own sampler."""
    scheduler = DDIMScheduler(prediction_type=output, clip_sample=False, steps_offset=0)
    scheduler.set_timesteps(10)
    noise = noise_of("DDIMScheduler", scheduler.config)
    assert noise.grid(10) == scheduler.timesteps.tolist()
    latents, out = torch.randn(2, 1, 4, 2, 2, generator=Generator().manual_seed(0))
    now, then = (torch.tensor([t]) for t in noise.grid(10)[4:6])
    clean, added = noise.split(latents, now, out)
    alpha, sigma = noise.levels(then)
    theirs = scheduler.step(out, int(now), latents).prev_sample
    torch.testing.assert_close(alpha * clean + sigma * added, theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_step_is_eulers(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - k / 10 for k in range(10)])
    noise = noise_of("FlowMatchEulerDiscreteScheduler", scheduler.config)
    torch.testing.assert_close(torch.tensor(noise.grid(10)), scheduler.timesteps.float())
    latents, out = torch.randn(2, 1, 4, 2, 2, generator=Generator().manual_seed(0))
    now, then = (torch.tensor([t]) for t in noise.grid(10)[4:6])
    clean, added = noise.split(latents, now, out)
    alpha, sigma = noise.levels(then)
    theirs = scheduler.step(out, scheduler.timesteps[4], latents).prev_sample
    torch.testing.assert_close(alpha * clean + sigma * added, theirs)


def test_every_time_is_covered() -> None:
    noise = noise_of("DDIMScheduler", {"prediction_type": "epsilon"})
    seen = {t for offset in torch.linspace(0, 0.999, 200).tolist() for t in noise.grid(10, offset)}
    assert seen == {float(t) for t in range(0, 1000)}


def test_model_folder_is_one_denoiser(tiny: Path) -> None:
    model: Model = open_folder(tiny)
    assert model.denoiser() is model.denoiser()
