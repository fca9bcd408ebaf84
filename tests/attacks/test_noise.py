"""Fresh noise: DDPM's at η = 1, none at 0, the paper's formula beyond, in every family."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from PIL.Image import Image
from torch import Generator, Tensor

from efface import attacks
from efface.attacks.noise import Noise
from efface.backbones.churn import Churn, Churned, ChurnedFlow
from efface.backbones.model import Model
from efface.backbones.pipeline import Artist, draw, load_pipeline
from efface.core import Case, Concept, EffaceError, Verdict, quiet
from efface.run import Scene, drive
from efface.store import Store, open_store
from tests.families import NAMES, build_family

CASE = Case("a cat", 3, steps=5, guidance=3.0)
CONCEPT = Concept("cat", ("cat",))


def picture(pipe: DiffusionPipeline, case: Case) -> Any:
    [drawn] = draw(pipe, [case], quiet)
    return np.asarray(drawn, int)


def generators(count: int) -> list[Generator]:
    return [Generator().manual_seed(i) for i in range(count)]


def ddpm(pipe: DiffusionPipeline, amount: float) -> Any:
    """What diffusers' own sampler draws."""
    drawn = pipe(
        CASE.prompt,
        num_inference_steps=CASE.steps,
        guidance_scale=CASE.guidance,
        eta=amount,
        generator=[Generator().manual_seed(CASE.seed)],
    ).images[0]
    return np.asarray(drawn, int)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_up_to_one_it_is_the_samplers_own(pipe: DiffusionPipeline, amount: float) -> None:
    ours = picture(pipe, replace(CASE, churn=amount))
    assert np.abs(ours - ddpm(pipe, amount)).max() <= 1
    assert np.abs(ours - picture(pipe, CASE)).max() > 1


def test_next_to_none_it_is_the_same_picture(pipe: DiffusionPipeline) -> None:
    assert np.abs(picture(pipe, replace(CASE, churn=1e-9)) - picture(pipe, CASE)).max() <= 1


def literal(kept: Tensor, times: tuple[int, int], x: Tensor, eps: Tensor, z: Tensor) -> Tensor:
    """The step as the paper's code has it, at η = 1.85 and v = 1.04, in float64."""
    now, then = (kept[t].double() for t in times)
    deviation = 1.85 * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
    held = (1 - then - deviation**2).abs().sqrt()
    return then.sqrt() * clean + held * eps + 1.04 * deviation * z


@pytest.mark.parametrize("time", [999, 749, 499])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_beyond_one_it_is_the_papers_formula(kind: str, time: int) -> None:
    sampler = Churned(prediction_type=kind, beta_schedule="scaled_linear", beta_start=0.00085,
                      beta_end=0.012, timestep_spacing="trailing")  # fmt: skip
    sampler.set_timesteps(4)
    assert time in sampler.timesteps
    sampler.churn = Churn(1.85, 1.04, generators(2))
    x, eps = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64, generator=Generator().manual_seed(9))
    kept = sampler.alphas_cumprod.double()[time]
    clean = (x - (1 - kept).sqrt() * eps) / kept.sqrt()
    output = eps if kind == "epsilon" else kept.sqrt() * eps - (1 - kept).sqrt() * clean
    z = torch.cat([torch.randn(1, 4, 8, 8, generator=rng) for rng in generators(2)]).double()
    found = sampler.step(output, torch.tensor(time), x, return_dict=False)[0]
    wanted = literal(sampler.alphas_cumprod, (time, time - 250), x, eps, z)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_magnitude_matters() -> None:
    """Some step of the schedule above takes the root of a negative number."""
    kept = DDIMScheduler(beta_schedule="scaled_linear").alphas_cumprod
    now, then = kept[999], kept[749]
    assert 1 - then - 1.85**2 * (1 - then) / (1 - now) * (1 - now / then) < 0


@pytest.mark.parametrize("kind", [Churned, ChurnedFlow])
def test_a_perfect_prediction_stays_at_the_levels_of_training(kind: Any) -> None:
    """At η = v = 1 the next latent is α' x₀ + σ' n with n of variance 1, whatever the family."""
    sampler = kind()
    sampler.set_timesteps(10)
    sampler.churn = Churn(1.0, 1.0, generators(1))
    noise = torch.randn(1, 4, 128, 128, generator=Generator().manual_seed(5))
    clean, i = torch.full_like(noise, 2.0), 6
    if kind is Churned:
        now, then = (sampler.alphas_cumprod[int(t)] for t in sampler.timesteps[i : i + 2])
        (a, s), (after, left) = ((k**0.5, (1 - k) ** 0.5) for k in (now, then))
        output = noise
    else:
        s, left = sampler.sigmas[i : i + 2]
        a, after = 1 - s, 1 - left
        output = noise - clean
    found = sampler.step(output, sampler.timesteps[i], a * clean + s * noise)[0]
    off = (found - after * clean) / left
    assert off.mean().abs() < 0.02
    assert abs(off.std() - 1) < 0.02
    share = (off * noise).mean()  # what is left of the old noise
    assert share < 0.99


def test_a_batch_is_drawn_as_one_by_one(pipe: DiffusionPipeline) -> None:
    cases = [replace(CASE, seed=seed, churn=1.5, churn_scale=1.04) for seed in range(3)]
    together = [np.asarray(p, int) for p in draw(pipe, cases, quiet)]
    for one, case in zip(together, cases, strict=True):
        assert np.abs(one - picture(pipe, case)).max() <= 1


def test_cases_of_other_noise_are_drawn_apart(pipe: DiffusionPipeline) -> None:
    cases = [CASE, *(replace(CASE, churn=1.5, churn_scale=scale) for scale in (1.0, 1.5))]
    for one, case in zip(draw(pipe, cases, quiet), cases, strict=True):
        assert np.array_equal(np.asarray(one, int), picture(pipe, case))


def test_more_noise_is_another_picture(pipe: DiffusionPipeline) -> None:
    drawn = [
        picture(pipe, replace(CASE, churn=amount, churn_scale=scale))
        for amount, scale in ((1.0, 1.0), (1.0, 1.3), (1.5, 1.0))
    ]
    assert len({each.tobytes() for each in drawn}) == 3
    assert np.array_equal(drawn[1], picture(pipe, replace(CASE, churn=1.0, churn_scale=1.3)))


def test_the_models_own_sampler_is_left_alone(pipe: DiffusionPipeline) -> None:
    import copy

    other = copy.copy(pipe)
    other.scheduler = own = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    drawn = picture(other, replace(CASE, churn=1.0))
    assert other.scheduler is own
    assert np.array_equal(drawn, picture(pipe, replace(CASE, churn=1.0)))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_draws_with_it(name: str, tmp_path: Path) -> None:
    pipe = load_pipeline(str(build_family(name, tmp_path / name)))
    case = replace(CASE, steps=3)
    plain, noisy = (picture(pipe, c) for c in (case, replace(case, churn=1.3)))
    assert (plain != noisy).mean() > 0.1
    assert np.array_equal(noisy, picture(pipe, replace(case, churn=1.3)))


def test_it_does_not_go_on_from_the_bases_steps(pipe: DiffusionPipeline) -> None:
    with pytest.raises(EffaceError, match="goes on with its own sampler"):
        draw(pipe, [replace(CASE, churn=1.0, handed=1)], quiet, base=Artist(pipe, None))


def test_the_papers_grid(erased: Model, base: Model) -> None:
    found = list(attacks.build("noise", "paper").run(erased, base, CONCEPT, CASE, Generator()))
    assert len(found) == 24
    assert [c.churn for c in found] == sorted(c.churn for c in found)
    assert {c.churn_scale for c in found} == {1.0, 1.02, 1.03, 1.04}
    assert {(c.prompt, c.seed) for c in found} == {(CASE.prompt, CASE.seed)}


@pytest.mark.parametrize("words", ["", "0 1", "-1", "1, 2", "nan", "inf", "one"])
def test_settings_must_make_sense(words: str) -> None:
    with pytest.raises(EffaceError, match="numbers above 0"):
        Noise(amounts=words)
    with pytest.raises(EffaceError, match="numbers above 0"):
        Noise(scales=words)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "run", {}) as opened:
        yield opened


def test_rows_tell_it_and_a_run_goes_on(erased: Model, base: Model, store: Store) -> None:
    def detect(pictures: Sequence[Image]) -> list[Verdict]:
        return [Verdict(float(np.asarray(p).mean()), False) for p in pictures]

    def audit() -> bytes:
        scene = Scene(erased, base, CONCEPT, store, batch=2)
        roots = [(replace(CASE, seed=seed), detect) for seed in range(3)]
        drive(scene, "noise", Noise(amounts="1 1.5", scales="1 1.04"), roots, quiet)
        return store.rows.path.read_bytes()

    whole = audit()
    rows = list(store.rows)
    assert [row.error for row in rows] == [None] * 12
    assert {(r.case.churn, r.case.churn_scale) for r in rows} == {
        (amount, scale) for amount in (1.0, 1.5) for scale in (1.0, 1.04)
    }
    assert len({row.image for row in rows}) == 12
    store.rows.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    assert audit() == whole
