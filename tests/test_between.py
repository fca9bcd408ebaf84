"""Latents between steps: what is outside a hole stays; who draws the first steps does not show."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image

from efface import attacks
from efface.backbones.between import begin, box, put_back
from efface.backbones.model import open_pipeline
from efface.backbones.pipeline import Artist, apply, draw
from efface.core import Case, Concept, EffaceError, Verdict, quiet
from efface.patch import load
from efface.run import Scene, drive
from efface.store import open_store

SAMPLERS = [
    DDIMScheduler,
    EulerDiscreteScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
]
CASE = Case("a cat", 3, steps=5, guidance=3.0)


@pytest.fixture(scope="module")
def erased(pipe: DiffusionPipeline, tiny_patch: Path) -> DiffusionPipeline:
    return apply(pipe, load(tiny_patch))


@pytest.fixture
def start(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "start.png")
    return tmp_path / "start.png"


def with_sampler(pipe: DiffusionPipeline, sampler: Any) -> DiffusionPipeline:
    other = copy.copy(pipe)
    other.scheduler = sampler.from_config(pipe.scheduler.config)
    return other


def picture(pipe: DiffusionPipeline, case: Case, base: DiffusionPipeline | None = None) -> Any:
    [drawn] = draw(pipe, [case], quiet, base=base and Artist(base, None))
    return np.asarray(drawn, int)


def handed(case: Case, steps: int) -> Case:
    from dataclasses import replace

    return replace(case, handed=steps)


def last_latents(pipe: DiffusionPipeline, case: Case, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the picture is decoded from, as the denoiser sees it."""
    kept = []
    decode = pipe.vae.decode

    def spy(latents: torch.Tensor, *rest: Any, **more: Any) -> Any:
        kept.append(latents * pipe.vae.config.scaling_factor)
        return decode(latents, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pipe.vae, "decode", spy)
        picture(pipe, case)
    return kept[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_the_hole_the_picture_stays(
    sampler: Any, erased: DiffusionPipeline, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = with_sampler(erased, sampler)
    clean = open_pipeline(pipe).denoiser().latents([Image.open(start)])
    found = [
        last_latents(pipe, Case("a cat", seed, 5, 3.0, start=start, hole=0.5), monkeypatch)
        for seed in (1, 2)
    ]
    left, top, right, bottom = box(0.5, 8, 8)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[top:bottom, left:right] = True
    assert hole.sum() == 16
    for latents in found:
        torch.testing.assert_close(latents[..., ~hole], clean[..., ~hole], rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1])[..., hole].abs().min() > 1e-4
    assert (found[0] - clean)[..., hole].abs().min() > 1e-4


@pytest.mark.parametrize("sampler", [DDIMScheduler, EulerDiscreteScheduler])
def test_each_step_is_given_the_picture_at_its_noise(sampler: Any) -> None:
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = sampler()
    scheduler.set_timesteps(4)
    change = put_back(clean, 0.25, [7, 8])
    drawn = torch.zeros_like(clean)

    class Pipe:
        """What the callback is given."""

    pipe: Any = Pipe()
    pipe.scheduler = scheduler
    noise = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (7, 8)]
    )
    for step in range(3):
        found = change(pipe, step, drawn)
        wanted = scheduler.add_noise(clean, noise, scheduler.timesteps[step + 1].repeat(2))
        assert torch.equal(found[..., 0, :], wanted[..., 0, :])
        assert not found[..., 3:5, 3:5].any()
    assert torch.equal(change(pipe, 3, drawn)[..., 0, :], clean[..., 0, :])
    with pytest.raises(EffaceError, match="packs its latents"):
        change(pipe, 0, torch.zeros(2, 16, 16))


def test_flows_have_their_own_noise() -> None:
    clean, scheduler = torch.ones(1, 4, 8, 8), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)

    class Pipe:
        """What the callback is given."""

    pipe: Any = Pipe()
    pipe.scheduler = scheduler
    found = put_back(clean, 0.5, [1])(pipe, 0, torch.zeros_like(clean))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    level = scheduler.sigmas[1]
    wanted = level * noise + (1 - level) * clean
    torch.testing.assert_close(found[..., 0, :], wanted[..., 0, :])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_model_that_takes_over_from_itself_draws_as_ever(
    sampler: Any, steps: int, pipe: DiffusionPipeline
) -> None:
    one, other = with_sampler(pipe, sampler), with_sampler(pipe, sampler)
    assert np.array_equal(picture(one, handed(CASE, steps), other), picture(one, CASE))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_goes_on_from_what_the_base_drew(
    sampler: Any, pipe: DiffusionPipeline, erased: DiffusionPipeline
) -> None:
    base, after = with_sampler(pipe, sampler), with_sampler(erased, sampler)
    drawn = [picture(after, handed(CASE, k), base) for k in (1, 3)]
    plain = [picture(each, CASE) for each in (after, base)]
    every = [*drawn, *plain]
    assert len({each.tobytes() for each in every}) == 4, "the more steps, the other picture"
    assert np.abs(drawn[1] - plain[1]).mean() < np.abs(plain[0] - plain[1]).mean()


def test_the_sampler_remembers_the_base_models_steps(
    pipe: DiffusionPipeline, erased: DiffusionPipeline
) -> None:
    base, after = (with_sampler(p, DPMSolverMultistepScheduler) for p in (pipe, erased))
    given = {"prompt": ["a cat"], "num_inference_steps": 5, "guidance_scale": 3.0}
    begun = begin(base, 2, **given, generator=[torch.Generator().manual_seed(3)])
    memory = list[list[Any]]()
    step = DPMSolverMultistepScheduler.step

    def spy(self: Any, output: torch.Tensor, *rest: Any, **more: Any) -> Any:
        memory.append([None if m is None else m.clone() for m in self.model_outputs])
        return step(self, output, *rest, **more)

    after.scheduler.step = spy.__get__(after.scheduler)
    picture(after, handed(CASE, 2), base)
    last = begun.sampler["model_outputs"][-1]
    assert torch.equal(memory[2][-1], last)
    assert not torch.equal(memory[1][-1], begun.sampler["model_outputs"][0])


def test_nobody_is_there_to_begin(pipe: DiffusionPipeline) -> None:
    with pytest.raises(EffaceError, match="no base model"):
        picture(pipe, handed(CASE, 1))


def test_a_batch_is_drawn_as_one_by_one(erased: DiffusionPipeline, start: Path) -> None:
    cases = [Case("a cat", seed, 3, 3.0, start=start, hole=0.5) for seed in range(3)]
    together = [np.asarray(p, int) for p in draw(erased, cases, quiet)]
    for one, case in zip(together, cases, strict=True):
        assert np.abs(one - picture(erased, case)).max() <= 1


@pytest.mark.parametrize("name", ["inpainting", "completion"])
def test_they_run_and_only_the_hole_is_judged(
    name: str, pipe: DiffusionPipeline, erased: DiffusionPipeline, start: Path, tmp_path: Path
) -> None:
    sizes = list[tuple[int, int]]()

    def detect(pictures: Sequence[Image.Image]) -> list[Verdict]:
        sizes.extend(p.size for p in pictures)
        return [Verdict(0.0, False) for _ in pictures]

    with open_store(tmp_path / "run", {}) as store:
        (store.folder / "start.png").write_bytes(start.read_bytes())
        after, base = (open_pipeline(p, frozen=True) for p in (erased, pipe))
        scene = Scene(after, base, Concept("cat", ("cat",)), store)
        case = Case("a cat", 1, 20, start=Path("start.png") if name == "inpainting" else None)
        drive(scene, name, attacks.build(name, "small"), [(case, detect)], quiet)
        rows = list(store.rows)
    assert [row.error for row in rows] == [None] * len(rows)
    if name == "inpainting":
        assert [row.case.hole for row in rows] == [0.5, 0.3]
        assert sizes == [(8, 8), (5, 5)]
    else:
        assert [row.case.handed for row in rows] == [1, 2, 3]
        assert sizes == [(16, 16)] * 3
    with Image.open(tmp_path / "run" / str(rows[0].image)) as kept:
        assert kept.size == (16, 16)
