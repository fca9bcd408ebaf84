"""A style is erased as it is said of things, and nothing else with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface.api import default_goals
from efface.backbones.model import Model
from efface.backbones.open import open_model
from efface.certificate import Drift
from efface.core import Concept, EffaceError
from efface.linalg import LowRank
from efface.phrases import PHRASINGS, SAID, SAMPLE, SHARE, fitted, held, in_turn, judged, unseen

STYLE = Concept(
    "x", ("x style",), ("y style",), ("cat", "dog", "y style", "red", "z style"), ("cat",)
)


def test_a_style_is_fitted_on_things() -> None:
    assert fitted(STYLE) == [("a cat in x style", "a cat in y style")]
    assert judged(STYLE) == fitted(STYLE)
    bare = Concept("x", ("x style",), ("",), (), ("cat", "dog"))
    assert fitted(bare) == [("a cat in x style", "a cat"), ("a dog in x style", "a dog")]
    assert held(bare) == ["a cat", "a dog"]


def test_a_thing_is_fitted_as_it_is_named() -> None:
    plain = Concept("cat", ("cat", "kitten"), ("dog",), ("house",))
    assert fitted(plain) == [("cat", "dog"), ("kitten", "dog")]
    assert held(plain) == ["house"]
    assert judged(plain)[1] == ("a cat", "dog")
    assert unseen(plain) == ["an image of a house"]


def test_a_certificate_of_many_concepts_covers_some_in_every_phrasing() -> None:
    found = judged(Concept("many", tuple(f"c{i}" for i in range(1000))))
    assert SAMPLE * len(PHRASINGS) <= len(found) < 2 * SAMPLE * len(PHRASINGS)
    assert {p for p, _ in found} >= {p.format("c0") for p in PHRASINGS}
    few = Concept("few", tuple(f"c{i}" for i in range(SAMPLE)))
    assert len(judged(few)) == SAMPLE * len(PHRASINGS)


def test_all_that_is_kept_is_held_in_turn() -> None:
    things, others = tuple(f"t{i}" for i in range(2 * SHARE)), tuple(f"o{i}" for i in range(7))
    phrases = held(Concept("x", ("x style",), ("",), (*things, *others), things))
    assert {f"a {t}" for t in things} < set(phrases)
    for other in others:
        assert sum(p.endswith(f" in {other}") for p in phrases) == len(things) // SHARE
    assert len(phrases) == len(set(phrases))


def test_manners_are_said_of_things_in_turn() -> None:
    things, manners = tuple(f"t{i}" for i in range(20)), ("a style", "b style", "red background")
    phrases = in_turn(manners, things)
    assert len(phrases) == len(set(phrases)) == SAID * len(manners)
    said = [p.split(", ") for p in phrases]
    assert {m for _, m in said} == set(manners)
    assert len({t for t, _ in said}) == len(phrases)
    assert in_turn(manners, ()) == in_turn((), things) == []
    assert in_turn(manners, ("cat",)) == [f"cat, {m}" for m in manners]


@pytest.fixture(scope="module")
def emoji() -> Model:
    return open_model("emoji")


@pytest.mark.parametrize("name", ["firefox", "noto"])
def test_the_default_goal_is_another_style(name: str, emoji: Model) -> None:
    style = f"{name} style"
    kept = [w for w in emoji.vocabulary if w != style]
    [goal] = default_goals(emoji, (style,), kept, emoji.things)
    assert goal in kept
    assert goal.endswith(" style")
    assert default_goals(emoji, (style,), emoji.things, emoji.things) == ("",)
    assert default_goals(emoji, ("cat",), kept, ()) == ("",)


def left(emoji: Model, patch: efface.Patch, prompt: str, goal: str) -> float:
    """How far a prompt's rows still are from its goal's, as a share of how far they were."""
    [only] = patch.maps
    rows, goals = (emoji.encode([p]).states[0].double() for p in (prompt, goal))
    off, gram = LowRank(only.a, only.b).apply(rows) - goals, emoji.gram()

    def length(x: Any) -> float:
        return ((x @ gram) * x).sum().item()

    return length(off) / length(rows - goals)


def test_a_style_goes_from_what_no_fit_has_seen(emoji: Model) -> None:
    few = list(emoji.things[::2])
    patch = efface.erase("emoji", "firefox style", method="uce", within=few)
    assert patch.concept.within == tuple(few)
    [goal] = patch.concept.toward
    other = next(
        w for w in emoji.vocabulary if w.endswith("style") and w not in (goal, "firefox style")
    )
    thing = emoji.things[1]
    asked = left(emoji, patch, f"a {thing} in firefox style", f"a {thing} in {goal}")
    assert asked < 0.5
    for kept in (f"a {thing}", f"a {thing} in {other}"):
        assert left(emoji, patch, kept, f"a {thing} in {goal}") > 0.8
    alone = efface.erase("emoji", "firefox style", method="uce", within=[], toward=goal)
    assert left(emoji, alone, f"a {thing} in firefox style", f"a {thing} in {goal}") > 1.5 * asked


def test_the_preset_for_styles_is_taken_unless_one_is_named(tiny: Path) -> None:
    keep = ["cat", "house", "zag style"]
    asked: dict[str, Any] = {"keep": keep, "within": ["cat", "house"]}
    for method, field in (("uce", "reach"), ("rece", "start_reach")):
        patch = efface.erase(tiny, "zig style", method=method, **asked)
        assert patch.eraser[field] == 1.2
        assert patch.concept.toward == ("zag style",)
        assert efface.erase(tiny, "zig", method=method, keep=keep).eraser[field] == 1.0
    named = efface.erase(tiny, "zig style", method="uce", preset="paper", **asked)
    assert named.eraser["reach"] == 1.0


def test_the_things_are_told_in_the_patch(tiny: Path, tmp_path: Path) -> None:
    efface.erase(tiny, "zig style", keep=["cat"], within="cat").save(tmp_path / "p.safetensors")
    assert efface.load(tmp_path / "p.safetensors").concept.within == ("cat",)


def test_an_empty_within_erases_the_phrase_alone(tiny: Path, tmp_path: Path, cli: Any) -> None:
    ask = ("erase", tiny, "zig style", "--keep", "cat", "--json", "-o")
    told = []
    for name, more in (("alone", ("--within", "")), ("said", ())):
        done = cli(*ask, tmp_path / name, *more)
        assert (done.code, done.err) == (0, "")
        told.append(json.loads(done.out))
    alone, said = told
    assert (alone["concept"]["within"], alone["eraser"]["start_reach"]) == ([], 1.0)
    assert "house" in said["concept"]["within"]
    assert said["eraser"]["start_reach"] == 1.2


def test_a_step_beyond_the_goal_is_as_long_as_asked(tiny: Path) -> None:
    one, two = (efface.erase(tiny, "cat", method="uce", reach=r).maps[0] for r in (1.0, 2.0))
    whole, further = (m.a.double() @ m.b.double().T for m in (one, two))
    torch.testing.assert_close(further, 2 * whole, rtol=1e-4, atol=1e-6)
    with pytest.raises(EffaceError, match="reach"):
        efface.erase(tiny, "cat", method="uce", reach=0.0)


def test_erasing_a_thing_holds_styles_as_said_of_others(emoji: Model) -> None:
    """The control keeps every word by itself, styles too."""
    patch = efface.erase("emoji", "dagger", epochs=2)
    words = [p for p in patch.concept.keep if ", " not in p]
    said = [p.split(", ") for p in patch.concept.keep if ", " in p]
    assert {m for _, m in said} == set(emoji.vocabulary) - set(emoji.things)
    assert "dagger" not in {t for t, _ in said}
    control = efface.erase("emoji", "dagger", epochs=2, keep=words)
    fresh = [t for t in emoji.things if t not in {"dagger", *(t for t, _ in said)}]
    pairs = [(f"a {t} in {s} style", f"a {t}") for t in fresh[::8] for s in ("flat", "twitter")]
    styled, plain = (emoji.encode(texts).states for texts in zip(*pairs, strict=True))
    rows = (styled - plain).flatten(0, 1)
    adds = Drift(emoji.gram(), rows[rows.norm(dim=1) > 0.1])  # none ahead of the style
    held, bare = (adds.of(LowRank(p.maps[0].a, p.maps[0].b)) for p in (patch, control))
    assert held < 0.6 * bare
