"""What every attack promises, driven by made-up verdicts: no picture is drawn here."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator

from efface import attacks
from efface.backbones.model import Model, open_pipeline
from efface.backbones.pipeline import apply
from efface.core import Case, Concept, EffaceError, Verdict
from efface.patch import load
from efface.rows import tell_case
from efface.settings import describe
from tests.equal import state

CONCEPT = Concept("cat", ("cat",), ("dog",), ("house", "tree"))
MISS = Verdict(0.1, False)
SHORT: dict[str, Any] = {
    "population": 10,
    "generations": 3,
    "iterations": 4,
    "every": 2,
    "drawings": 2,
    "steps": "2 4",
}
"""Settings of searches."""
LONGEST = 60
"""Queries that no small budget may pass."""
MAY_BE_EMPTY = {"synonyms", "casing"}
"""The tiny model has no table of synonyms and its tokenizer hears no capitals."""
Pair = tuple[Model, Model]
every_attack = pytest.mark.parametrize("name", attacks.REGISTRY)


@pytest.fixture(scope="module")
def models(pipe: DiffusionPipeline, tiny_patch: Path) -> Pair:
    erased = apply(pipe, load(tiny_patch))
    return open_pipeline(erased, frozen=True), open_pipeline(pipe, frozen=True)


@pytest.fixture(scope="module", autouse=True)
def picture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run's folder, which is where a picture to start from is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        Path("pictures").mkdir()
        Image.linear_gradient("L").convert("RGB").save("pictures/cat.png")
        yield


def case(name: str) -> Case:
    start = Path("pictures/cat.png") if attacks.find(name).from_picture else None
    return Case("a cat on a house", seed=3, steps=5, guidance=4.0, start=start)


def small(name: str) -> attacks.Attack:
    """The smallest budget; searches, which are tested elsewhere, are cut short."""
    known = {s.name for s in describe(attacks.find(name))}
    return attacks.build(name, "small", **{k: v for k, v in SHORT.items() if k in known})


def play(name: str, models: Pair, verdicts: Sequence[Verdict] = (), seed: int = 0) -> list[Case]:
    """Every case of a small budget; verdicts in order, then misses."""
    rng = Generator().manual_seed(seed)
    run = small(name).run(*models, CONCEPT, case(name), rng)
    found, said = [], iter(verdicts)
    try:
        found.append(next(run))
        while True:
            found.append(run.send(next(said, MISS)))
    except StopIteration:
        return found


def told(cases: Sequence[Case], folder: Path) -> list[str]:
    (folder / "embeds").mkdir(exist_ok=True)
    return [json.dumps(tell_case(folder, c)) for c in cases]


@every_attack
def test_same_rng_same_cases(name: str, models: Pair, tmp_path: Path) -> None:
    once = play(name, models)
    torch.rand(1)  # an attack that drew from the global generator would differ
    assert told(play(name, models), tmp_path) == told(once, tmp_path)
    assert len(set(told(once, tmp_path))) == len(once), "a query is spent twice"


@every_attack
def test_unknown_verdicts_do_no_harm(name: str, models: Pair) -> None:
    assert play(name, models, [Verdict(None, None)] * LONGEST) or name in MAY_BE_EMPTY


@every_attack
def test_models_stay_as_they_were(name: str, models: Pair) -> None:
    before = [state(m.pipe) for m in models]
    play(name, models)
    assert [state(m.pipe) for m in models] == before


@every_attack
def test_small_budgets_are_small(name: str, models: Pair) -> None:
    assert (name not in MAY_BE_EMPTY) <= len(play(name, models)) <= LONGEST


@every_attack
def test_it_may_be_closed_early(name: str, models: Pair) -> None:
    run = small(name).run(*models, CONCEPT, case(name), Generator())
    next(run, None)
    run.close()


@every_attack
def test_it_asks_for_the_same_picture_quality(name: str, models: Pair) -> None:
    for found in play(name, models):
        assert (found.steps, found.guidance, found.size) == (5, 4.0, None)


@every_attack
def test_every_budget_exists(name: str) -> None:
    assert {"small", "medium", "paper"} <= set(attacks.presets(name))


@every_attack
def test_every_setting_is_explained(name: str) -> None:
    settings = describe(attacks.find(name))
    fields: tuple[Any, ...] = dataclasses.fields(attacks.find(name))  # type: ignore[arg-type]
    assert [s.name for s in settings] == [f.name for f in fields]
    assert not [s.name for s in settings if len(s.text) < 10]


def test_unknown_attacks_are_refused() -> None:
    with pytest.raises(EffaceError, match=r"no attack 'magic': choose one of none, seeds"):
        attacks.build("magic")
