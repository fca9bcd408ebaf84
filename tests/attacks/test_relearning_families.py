"""Relearning in every family, from pictures of the user's, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Generator

from efface import likeness, relearn
from efface.attacks.relearning import Pair, Relearning, taught, trained
from efface.backbone import Denoiser
from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import draw, load_pipeline
from efface.core import EffaceError, Said, quiet
from efface.relearn import Course, Taught, learnt
from tests.attacks.test_relearning import CASE, CONCEPT, SHORT, loss, weights_of
from tests.families import NAMES, build_family


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flux"])
def test_every_family_learns(name: str, tmp_path: Path) -> None:
    pipe = load_pipeline(str(build_family(name, tmp_path / name)))
    model = open_pipeline(pipe, frozen=True)
    rng = Generator().manual_seed(0)
    of = Taught(torch.randn(2, *model.denoiser().shape, generator=rng), ["a cat"])
    [file] = learnt(model, of, Course([30], 4, 0.01, 2, 0))
    assert loss(model, of, weights_of(model, file)) < loss(model, of, {})
    [one], [other] = (draw(pipe, [replace(CASE, learnt=f)], quiet) for f in (file, None))
    assert one.tobytes() != other.tobytes()


def test_flux_is_refused(tmp_path: Path) -> None:
    model = open_pipeline(load_pipeline(str(build_family("flux", tmp_path / "flux"))), frozen=True)
    with pytest.raises(EffaceError, match=r"FLUX\.1 was distilled"):
        next(SHORT.run(model, model, CONCEPT, CASE, Generator()))


@pytest.mark.parametrize("steps", ["", "0", "20 10", "10 10", "ten", "-5", "1.5"])
def test_steps_must_make_sense(steps: str) -> None:
    with pytest.raises(EffaceError, match="whole numbers above 0, ascending"):
        Relearning(steps=steps)


def test_settings_must_make_sense() -> None:
    with pytest.raises(EffaceError, match="must be above 0"):
        Relearning(rank=0)


def test_pictures_of_the_users(base: Model, erased: Model, tmp_path: Path) -> None:
    for i in range(2):
        Image.linear_gradient("L").rotate(90 * i).convert("RGB").save(tmp_path / f"{i}.png")
    seen = taught(replace(SHORT, pictures=str(tmp_path)), Pair(erased, base), CONCEPT)
    assert len(seen.latents) == 2
    assert not torch.allclose(seen.latents[0], seen.latents[1])
    assert seen.prompts == ["cat", "a cat", "a picture of a cat"]
    with pytest.raises(EffaceError, match="is no folder"):
        trained(replace(SHORT, pictures=str(tmp_path / "none")), Pair(erased, base), CONCEPT)


def test_each_picture_is_learnt_under_its_phrase(
    erased: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    prompts, asked, shown = ["cat", "a cat"], list[Said](), list[torch.Tensor]()

    def noised(denoiser: Denoiser, clean: torch.Tensor, *rest: Any) -> Any:
        shown.append(clean[:, 0, 0, 0])
        return likeness.noised(denoiser, clean, *rest)

    def misfit(denoiser: Denoiser, seen: Any, said: Said, weights: Any) -> torch.Tensor:
        asked.append(said)
        return likeness.misfit(denoiser, seen, said, weights)

    monkeypatch.setattr(relearn, "noised", noised)
    monkeypatch.setattr(relearn, "misfit", misfit)
    pictures = torch.arange(4.0)[:, None, None, None].expand(4, *erased.denoiser().shape)
    learnt(erased, Taught(pictures.contiguous(), prompts), Course([6], 4, 0.01, 4, 0))
    rows = erased.encode(prompts).states
    for which, said in zip(shown, asked, strict=True):
        assert torch.equal(said["text"].states, rows[which.long() % 2])
    assert len(set(torch.cat(shown).tolist())) == 4
