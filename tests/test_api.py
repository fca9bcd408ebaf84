"""The short way to use efface: erase, load, stack, apply, draw."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import efface
from efface import api
from efface.backbones.model import EVERYDAY, open_folder, open_pipeline
from efface.core import EffaceError
from tests.equal import contents, state

METHODS = ("uce", "rece")


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> DiffusionPipeline:
    return efface.pipeline(str(tiny))


def moved(pipe: DiffusionPipeline, patch: efface.Patch, prompt: str, toward: str = "") -> float:
    """How far the last row went on its way to the target's: 0 not at all, 1 all of it."""
    [m] = patch.maps
    model = open_pipeline(pipe)
    one, other = model.encode([prompt, toward]).states[:, -1].double()
    after = one + m.a.double() @ (m.b.double().T @ one)
    way = other - one
    return float((after - one) @ way / way.square().sum())


@pytest.mark.parametrize("method", METHODS)
def test_the_readme_in_one_test(
    method: str, tiny: Path, pipe: DiffusionPipeline, tmp_path: Path
) -> None:
    before = state(pipe)
    patch = efface.erase(tiny, "cat", method=method)
    patch.save(tmp_path / "no-cat.safetensors")
    erased = efface.apply(pipe, efface.load(tmp_path / "no-cat.safetensors"))
    options: dict[str, Any] = {"seeds": (0, 1), "steps": 2}
    base = efface.draw(pipe, ["cat", "dog"], **options)
    after = efface.draw(erased, ["cat", "dog"], **options)
    assert [b.tobytes() != a.tobytes() for b, a in zip(base, after, strict=True)][:2] == [True] * 2
    assert [b.tobytes() for b in efface.draw(tiny, ["cat", "dog"], **options)] == [
        b.tobytes() for b in base
    ]
    assert state(pipe) == before


@pytest.mark.parametrize("method", METHODS)
def test_live_pipeline_and_folder_give_one_patch(
    method: str, tiny: Path, pipe: DiffusionPipeline
) -> None:
    before = state(pipe)
    found = [contents(efface.erase(s, "cat", method=method)) for s in (tiny, str(tiny), pipe)]
    assert found[0] == found[1] == found[2]
    assert state(pipe) == before


def test_toward(tiny: Path, pipe: DiffusionPipeline) -> None:
    there = efface.erase(tiny, "cat", toward="dog", method="uce", ridge=1e-3, keep=())
    blank = efface.erase(tiny, "cat", method="uce", ridge=1e-3, keep=())
    assert there.concept.goals() == ("dog",)
    assert blank.concept.goals() == ("",)
    assert moved(pipe, there, "cat", "dog") > 0.9
    assert moved(pipe, blank, "cat", "") > 0.9
    assert abs(moved(pipe, blank, "cat", "dog")) < 0.9


def test_one_target_for_each(tiny: Path, pipe: DiffusionPipeline) -> None:
    patch = efface.erase(
        tiny, "cat", "house", toward=["dog", "tree"], keep=(), method="uce", ridge=1e-3
    )
    assert patch.concept.goals() == ("dog", "tree")
    swapped = efface.erase(
        tiny, "cat", "house", toward=["tree", "dog"], keep=(), method="uce", ridge=1e-3
    )
    for word, target in (("cat", "dog"), ("house", "tree")):
        assert moved(pipe, patch, word, target) > 0.4
        assert moved(pipe, swapped, word, target) < 0.1
    for targets in (["a", "b", "c"], []):
        with pytest.raises(EffaceError, match=f"2 phrases to erase but {len(targets)} targets"):
            efface.erase(tiny, "cat", "house", toward=targets)


@pytest.mark.parametrize("method", METHODS)
def test_several_concepts_in_one_solve(method: str, tiny: Path, pipe: DiffusionPipeline) -> None:
    both = efface.erase(tiny, "cat", "house", method=method)
    alone = efface.erase(tiny, "cat", method=method)
    assert both.concept.name == "cat, house"
    assert both.concept.keep == ("dog", "tree")
    assert len(both.maps) == 1
    assert min(moved(pipe, both, word) for word in ("cat", "house")) > 0.3
    assert abs(moved(pipe, alone, "house")) < 0.6 * moved(pipe, both, "house")


def test_keep_holds_its_words(tiny: Path, pipe: DiffusionPipeline) -> None:
    free = efface.erase(tiny, "cat", keep=(), method="uce")
    kept = efface.erase(tiny, "cat", keep=["a dog"], method="uce", keep_weight=100.0)
    assert kept.concept.keep == ("a dog",)
    assert abs(moved(pipe, kept, "a dog")) < 0.2 * abs(moved(pipe, free, "a dog"))
    assert free.concept.keep == ()
    assert free.facts["drift"] is None
    assert efface.erase(tiny, "cat", keep="dog", method="uce").concept.keep == ("dog",)


def test_the_empty_prompt_is_kept_once(tiny: Path) -> None:
    one, other = (efface.erase(tiny, "cat", keep=keep) for keep in ([], ["", " "]))
    assert one.concept.keep == other.concept.keep == ()
    assert contents(one) == contents(other)


def test_default_keep_leaves_out_what_means_the_concept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert efface.erase(tiny, "cat").concept.keep == ("dog", "house", "tree")
    folder = shutil.copytree(tiny, tmp_path / "m")
    words = {"concepts": ["Cat", " CAT", "dog", "ox"], "styles": ["ink"]}
    (folder / "concepts.json").write_text(json.dumps(words))
    assert efface.erase(folder, " cat ").concept.keep == (
        *("dog", "ox", "ink"),
        *("dog, ink", "ox, ink"),
    )
    # By meaning: those nearer than NEAR go, the rest stay in order.
    model = open_folder(tiny)
    rows = model.encode(["", "kitten", *model.vocabulary]).states[:, -1]
    near = torch.nn.functional.cosine_similarity(rows[1:2] - rows[0], rows[2:] - rows[0]).tolist()
    for bar in (*near, -1.0, 1.0):
        monkeypatch.setattr(api, "NEAR", bar + 1e-4)
        expected = tuple(w for w, c in zip(model.vocabulary, near, strict=True) if c <= bar + 1e-4)
        assert api.everyday(model, ["kitten"]) == expected
    (folder / "concepts.json").unlink()
    assert set(efface.erase(folder, "tree").concept.keep) <= set(EVERYDAY) - {"tree"}


def test_view_is_a_source_too(tiny: Path, pipe: DiffusionPipeline) -> None:
    view = efface.apply(pipe, efface.erase(pipe, "cat"))
    again = efface.erase(view, "cat")
    assert again.concept == efface.erase(pipe, "cat").concept
    assert again.base != efface.erase(pipe, "cat").base
    with pytest.raises(EffaceError, match="fitted on base"):
        efface.apply(pipe, again)


def test_a_stray_concepts_file_is_not_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "concepts.json").write_text('{"concepts": ["stray"]}')
    monkeypatch.chdir(tmp_path)
    loaded = efface.pipeline(str(tiny))
    bare = type(loaded)(**loaded.components, requires_safety_checker=False)  # it has no folder
    assert open_pipeline(bare).vocabulary == EVERYDAY


@pytest.mark.parametrize("method", METHODS)
def test_strength(method: str, tiny: Path, pipe: DiffusionPipeline) -> None:
    whole = efface.erase(tiny, "cat", method=method)
    half = efface.erase(tiny, "cat", method=method, strength=0.5)
    assert half.eraser["strength"] == 0.5
    assert contents(half)["maps"] == contents(whole.scale(0.5))["maps"]
    assert moved(pipe, half, "cat") == pytest.approx(moved(pipe, whole, "cat") / 2, rel=1e-4)
    # Drift is of second order in the map: a quarter at half the strength.
    assert half.facts["drift"] == pytest.approx(whole.facts["drift"] / 4, rel=1e-3)
    assert set(half.facts) == set(whole.facts)
    none = efface.erase(tiny, "cat", method=method, strength=0.0)
    assert none.facts["drift"] == 0
    assert none.facts["certificate"]["min"] < 1e-6
    assert contents(efface.erase(tiny, "cat", method=method, strength=1.0)) == contents(whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("empty", ["", "   ", "\t\n"])
def test_empty_concept_is_refused(method: str, empty: str, tiny: Path) -> None:
    for concepts in ((empty,), ("cat", empty)):
        with pytest.raises(EffaceError, match="tokenizes to nothing"):
            efface.erase(tiny, *concepts, method=method)


@pytest.mark.parametrize("kept", ["cat", "CAT", " Cat "])
def test_contradictory_keep_is_refused(kept: str, tiny: Path) -> None:
    with pytest.raises(EffaceError, match="'cat' is both erased and kept"):
        efface.erase(tiny, "house", "cat", keep=["dog", kept])


def test_other_bad_input(tiny: Path, pipe: DiffusionPipeline) -> None:
    with pytest.raises(EffaceError, match="nothing to erase"):
        efface.erase(tiny)
    with pytest.raises(EffaceError, match="no method 'magic': choose one of rece, uce"):
        efface.erase(tiny, "cat", method="magic")
    with pytest.raises(EffaceError, match="uce has no setting 'epochs'"):
        efface.erase(tiny, "cat", method="uce", epochs=3)
    with pytest.raises(EffaceError, match="strength nan"):
        efface.erase(tiny, "cat", strength=float("nan"))
    with pytest.raises(EffaceError, match="nothing to draw"):
        efface.draw(pipe, [])
    with pytest.raises(AttributeError, match="no attribute 'unerase'"):
        efface.unerase  # noqa: B018


def test_every_public_name_is_there() -> None:
    for name in efface.__all__:
        assert getattr(efface, name).__module__.startswith("efface.")


def test_progress_is_reported(tiny: Path) -> None:
    for method in METHODS:
        seen: list[tuple[str, int, int]] = []
        efface.erase(tiny, "cat", method=method, on_step=lambda *s: seen.append(s))  # noqa: B023
        assert seen
        assert all(0 <= step <= of for _, step, of in seen)
        assert seen[-1][1] == seen[-1][2]
