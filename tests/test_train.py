"""The optimisation loop: killed anywhere it ends with the same bits; it stops before it spoils."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor

from efface import erasers
from efface.backbones.model import Model, open_folder, open_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.lesson import WATCHED, drawn_pairs, enough
from efface.moments import remembered, say, spread
from efface.train import Standing, Trained, Watch, Weights, train
from tests.equal import bits, contents
from tests.quick import SHORT

STEPS = 12
CONCEPT = Concept("cat", ("cat",), keep=("house", "tree"))


class Killed(BaseException):
    """What no handler of errors stops."""


class Killer:
    """Kills at the step it is told."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, what: str, step: int, of: int) -> None:
        if what == "training" and step == self.at:
            raise Killed


def noisy(weights: Weights, step: int, rng: Generator) -> Tensor:
    """A loss that draws."""
    return (weights["w"] - torch.randn(3, generator=rng)).square().sum()


def run(on_step: Killer | None = None, standing: Standing | None = None) -> Trained:
    watch = Watch(lambda w: w["w"].abs().max().item(), 1e9, 5)
    return train(
        {"w": torch.zeros(3)},
        noisy,
        steps=STEPS,
        rate=0.1,
        rng=Generator().manual_seed(0),
        on_step=on_step or quiet,
        watch=watch,
        standing=standing,
    )


@pytest.mark.parametrize("at", range(STEPS))
def test_killed_and_resumed_is_bit_exact(at: int, tmp_path: Path) -> None:
    whole = run()
    standing = Standing(tmp_path / "run.safetensors", seconds=0.0, share=1e9)
    with pytest.raises(Killed):
        run(Killer(at), standing)
    assert standing.path.exists() == (at > 0)
    steps = list[int]()
    resumed = train(
        {"w": torch.zeros(3)},
        noisy,
        steps=STEPS,
        rate=0.1,
        rng=Generator().manual_seed(0),
        on_step=lambda what, step, of: steps.append(step),
        watch=Watch(lambda w: w["w"].abs().max().item(), 1e9, 5),
        standing=standing,
    )
    assert steps == list(range(at, STEPS)), "it began again instead of going on"
    assert bits(resumed.weights["w"]) == bits(whole.weights["w"])
    assert resumed.losses == whole.losses
    assert not standing.path.exists()


@pytest.mark.parametrize("redraw", [0, 3])
def test_killed_fit_gives_the_same_patch(
    redraw: int, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    eraser = erasers.build("esd", **SHORT, steps=8, redraw=redraw)
    whole = eraser.fit(open_pipeline(pipe), CONCEPT, Generator().manual_seed(3), quiet)
    monkeypatch.setattr(Standing, "due", lambda self: True)
    with pytest.raises(Killed):
        eraser.fit(open_pipeline(pipe), CONCEPT, Generator().manual_seed(3), Killer(7))
    seen = list[tuple[str, int]]()
    again = eraser.fit(
        open_pipeline(pipe),
        CONCEPT,
        Generator().manual_seed(3),
        lambda what, step, of: seen.append((what, step)),
    )
    first = next(step for what, step in seen if what == "training")
    assert first == (6 if redraw else 7)
    assert contents(again) == contents(whole)


def test_a_damaged_standing_begins_anew(tmp_path: Path) -> None:
    standing = Standing(tmp_path / "run.safetensors", seconds=0.0, share=1e9)
    with pytest.raises(Killed):
        run(Killer(5), standing)
    standing.path.write_bytes(standing.path.read_bytes()[:-4])
    assert bits(run(standing=standing).weights["w"]) == bits(run().weights["w"])


def test_no_number_stops_and_says_where(tmp_path: Path) -> None:
    standing = Standing(tmp_path / "run.safetensors", seconds=0.0, share=1e9)

    def broken(weights: Weights, step: int, rng: Generator) -> Tensor:
        return noisy(weights, step, rng) * (float("nan") if step == 4 else 1)

    with pytest.raises(EffaceError, match=r"the loss is nan at step 4: lower the rate; .* kept in"):
        train(
            {"w": torch.zeros(3)},
            broken,
            steps=STEPS,
            rate=0.1,
            rng=Generator().manual_seed(0),
            on_step=quiet,
            standing=standing,
        )
    assert standing.path.exists()
    whole = run(standing=standing)
    assert len(whole.losses) == STEPS, "what was kept is good to go on from"


def test_stops_before_it_spoils() -> None:
    """The weights given back are those of the last look that passed."""
    moved = {5: 0.1, 10: 0.9}
    looks = iter(moved.values())
    seen = list[Tensor]()

    def look(weights: Weights) -> float:
        seen.append(weights["w"].clone())
        return next(looks)

    stopped = train(
        {"w": torch.zeros(3)},
        noisy,
        steps=STEPS,
        rate=0.1,
        rng=Generator().manual_seed(0),
        on_step=quiet,
        watch=Watch(look, 0.5, 5),
    )
    assert stopped.steps == 5
    assert "limit 0.5" in stopped.stopped
    assert torch.equal(stopped.weights["w"], seen[0])
    assert not torch.equal(seen[0], seen[1])


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EffaceError, match=r"run cannot be written .* EFFACE_CACHE"):
        run(standing=Standing(tmp_path / "file" / "run", seconds=0.0, share=1e9))


def test_writing_takes_a_small_share(tmp_path: Path) -> None:
    standing = Standing(tmp_path / "run", seconds=0.0)
    standing.write({"w": torch.zeros(3)}, {})
    assert not standing.due(), "the last writing took all of the time since"


def test_drawings_are_remembered(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    model: Model = open_folder(tiny)
    calls = list[str]()

    def draw_of(words: str) -> list[object]:
        calls.clear()
        found = remembered(
            model.denoiser(),
            say(model, [words]),
            say(model, [""]),
            spread(2, 1),
            steps=3,
            guidance=3.0,
            seed=1,
            on_step=lambda what, step, of: calls.append(what),
        )
        return [bits(t) for t in found]

    once = draw_of("cat")
    assert calls
    assert draw_of("cat") == once
    assert not calls, "drawn a second time"
    assert draw_of("house") != once
    assert calls
    [path, _] = sorted(tmp_path.glob("moments-*"), key=lambda p: p.stat().st_mtime)
    path.write_bytes(b"damage")
    assert draw_of("cat") == once


def test_every_phrase_is_drawn(tiny: Path) -> None:
    """More phrases than drawings asked for: each has one; a style is said of some things evenly."""
    model = open_folder(tiny)
    many = Concept("many", ("cat", "dog", "tree"))
    assert drawn_pairs(model, many, 1, say(model, many.erase)).tolist() == [0, 1, 2]
    styles = Concept("styles", ("s", "t"), within=("cat", "dog", "tree"))
    assert drawn_pairs(model, styles, 2, say(model, ["x"] * 6)).tolist() == [0, 3]
    assert spread(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert spread(3, 7).tolist() == [0, 2, 4]


def test_no_more_is_drawn_than_updates_use() -> None:
    """Many short drawings before few long ones, never more than asked for."""
    assert enough(8, 20, 240) == (8, 20)
    assert enough(8, 20, 10) == (4, 5)
    assert enough(8, 20, 40) == (8, 10)
    assert enough(2, 20, 10) == (2, 10)
    assert enough(8, 3, 10) == (4, 3)
    assert enough(8, 20, 0) == (1, 5)


def test_a_few_updates_cost_a_few_rows(tiny: Path) -> None:
    """Drawings two rows a moment, updates, and what is measured: all that passes the denoiser."""
    model = open_folder(tiny)
    rows = list[int]()
    handle = model.denoiser().module.register_forward_pre_hook(
        lambda module, args: rows.append(len(args[0]))
    )
    try:
        few: dict[str, Any] = {"steps": 10, "batch": 1, "keep_weight": 0.0}
        patch = erasers.build("esd", **few).fit(model, CONCEPT, Generator().manual_seed(11), quiet)
    finally:
        handle.remove()
    assert sum(rows) == 2 * 4 * 5 + 2 * 4 * 4 + 10 + 2 * WATCHED
    assert patch.facts["moved"]["kept"] > 0


@pytest.mark.parametrize(("keep", "count"), [((), 4), (("house",), 1)])
def test_what_is_kept_is_measured_however_little_it_says(
    keep: tuple[str, ...], count: int, tiny: Path
) -> None:
    """The empty prompt says nothing beside itself; a patch's facts are numbers all the same."""
    eraser = erasers.build("esd", **{**SHORT, "keep_drawings": count}, steps=2)
    concept = Concept("cat", ("cat",), keep=keep)
    patch = eraser.fit(open_folder(tiny), concept, Generator().manual_seed(0), quiet)
    assert 0 < patch.facts["moved"]["kept"] < 10
    assert patch.to_bytes()
