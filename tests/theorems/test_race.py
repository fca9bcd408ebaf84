"""RACE: its adversary stays where it may and finds something; without it RACE is ESD."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.model import Model
from efface.core import EffaceError, quiet
from efface.erasers import find
from efface.lesson import Batch, Lesson
from efface.moments import said_by
from efface.patch import Patch
from efface.train import Standing
from tests import quick
from tests.equal import bits, contents
from tests.quick import CONCEPT, SHORT

ESD: Any = find("esd")
RACE: Any = find("race")


@pytest.fixture(scope="module")
def lesson(model: Model) -> Lesson:
    found: Lesson = RACE(**SHORT).lesson(model, CONCEPT, Generator().manual_seed(0), quiet)
    return found


def fit(model: Model, **settings: Any) -> Patch:
    few = {"steps": 3, "erase_steps": 3, "attack_steps": 2}
    return quick.fit("race", model, **{**few, **settings})


def whole(lesson: Lesson) -> Batch:
    moments = lesson.erased.moments
    return Batch(moments, said_by(lesson.named, moments.pair))


@pytest.mark.parametrize("target", ["prediction", "noise"])
@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_the_adversary_stays_in_its_box_and_gains(
    target: Any, distance: Any, lesson: Lesson
) -> None:
    batch, moved = whole(lesson), weights(lesson)
    rows = batch.said["text"].states

    def found(steps: int, reach: float = 0.3) -> tuple[Tensor, float]:
        eraser = RACE(
            **SHORT, target=target, distance=distance, attack_steps=steps, reach=reach,
        )  # fmt: skip
        rng = Generator().manual_seed(1)
        at = eraser.attack(lesson.denoiser, batch, moved, rng)
        return at, eraser.missed(lesson.denoiser, batch, at, moved).item()

    at, missed = found(8)
    assert (at - rows).abs().max() <= 0.3 + 1e-6
    assert (at >= rows.amin((1, 2), keepdim=True)).all()
    assert (at <= rows.amax((1, 2), keepdim=True)).all()
    assert missed < found(0)[1], "it came no nearer than where it began"
    assert not torch.equal(at, rows)
    assert torch.equal(found(2, reach=0.0)[0], rows)


def weights(lesson: Lesson) -> dict[str, Tensor]:
    """A model in which the concept is partly gone."""
    rng = Generator().manual_seed(2)
    names = RACE(**SHORT).parameters(lesson.denoiser)
    return {n: w + 0.05 * torch.randn(w.shape, generator=rng) for n, w in names.items()}


def test_the_noise_is_what_the_drawing_began_with(lesson: Lesson) -> None:
    """At its first moment x_t is noise; a model that says so misses nothing."""
    moments = lesson.erased.moments
    first = [int((moments.drawing == i).nonzero()[0]) for i in range(len(moments.starts))]
    for i, at in enumerate(first):
        assert torch.equal(moments.latents[at], moments.starts[i])
    assert not torch.equal(moments.starts[0], moments.starts[1])


def test_without_an_adversary_it_is_esd(model: Model) -> None:
    """No updates against it: the patch is that of ESD's half alone."""
    race = fit(model, steps=0)
    esd = ESD(**SHORT, steps=3).fit(model, CONCEPT, Generator().manual_seed(0), quiet)
    assert [bits(e.a) for e in race.edits] == [bits(e.a) for e in esd.edits]
    assert [bits(e.a) for e in fit(model).edits] != [bits(e.a) for e in esd.edits]


def test_lasso_stays_near_the_start(model: Model) -> None:
    start = fit(model, steps=0)

    def gone(lasso: float) -> float:
        found = fit(model, steps=4, lasso=lasso, rate=3e-3, keep_weight=0.0)
        pairs = zip(found.edits, start.edits, strict=True)
        return sum((a.a - b.a).abs().sum().item() for a, b in pairs)

    assert gone(1e3) < gone(0.0)


@pytest.mark.parametrize("at", [("training", 2, 1), ("training", 1, 2)])
def test_killed_in_either_half_it_gives_the_same_patch(
    at: tuple[str, int, int], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = fit(model)
    monkeypatch.setattr(Standing, "due", lambda self: True)
    what, step, half = at
    met = list[int]()

    def kill(word: str, now: int, of: int) -> None:
        if word == what and now == step:
            met.append(now)
            if len(met) == half:
                raise KeyboardInterrupt

    eraser = RACE(**SHORT, steps=3, erase_steps=3, attack_steps=2)
    with pytest.raises(KeyboardInterrupt):
        eraser.fit(model, CONCEPT, Generator().manual_seed(0), kill)
    seen = list[int]()
    again = eraser.fit(
        model, CONCEPT, Generator().manual_seed(0), lambda w, now, of: seen.append(now)
    )
    assert seen == ([2, 0, 1, 2, 1] if half == 1 else [1, 2, 1])
    assert contents(again) == contents(unbroken)


def test_bad_settings_are_refused() -> None:
    for wrong in ({"reach": -0.1}, {"attack_pace": 0.0}, {"erase_steps": -1}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            RACE(**wrong)
