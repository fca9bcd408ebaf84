"""The bundled model as it ships: loads with diffusers alone, obeys its text, fits in its box."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import efface
from efface.backbones.checkpoint import bundled, resolve
from efface.core import EffaceError
from efface.detectors.judge import Judge, reporting, tuning
from efface.watchers import MOST

KNOWN = ("pizza", "guitar", "wine glass", "spider", "crown", "red apple", "church", "rocket")


@pytest.fixture(scope="module")
def judges() -> dict[str, Judge]:
    return {"tuning": tuning(), "reporting": reporting()}


def test_it_is_small_and_complete() -> None:
    folder = bundled()["emoji"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 60e6
    words = json.loads((folder / "concepts.json").read_text())
    assert len(words["concepts"]) >= 100
    assert len(words["styles"]) == 7
    assert len(words["backgrounds"]) >= 8


def test_diffusers_alone_draws_it(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["efface"] = None  # an import of it would fail
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(resolve("emoji"))!r})
pipe("a pizza", num_inference_steps=2).images[0].save({str(tmp_path / "pizza.png")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with Image.open(tmp_path / "pizza.png") as picture:
        assert picture.size == (64, 64)


def test_pictures_show_what_the_prompt_names(judges: dict[str, Judge]) -> None:
    pictures = efface.draw("emoji", [f"a {name}" for name in KNOWN], seeds=range(4))
    expected = [name for name in KNOWN for _ in range(4)]
    for judge in judges.values():
        seen = judge.names(pictures)
        assert sum(a == b for a, b in zip(seen, expected, strict=True)) >= 0.75 * len(expected)


def test_an_erased_concept_is_gone_and_the_others_stay(judges: dict[str, Judge]) -> None:
    base = efface.pipeline("emoji")
    erased = efface.apply(base, efface.erase("emoji", "pizza"))
    pizza = judges["reporting"].watch("pizza")
    found = [
        sum(bool(v.hit) for v in pizza(efface.draw(pipe, ["a pizza"], seeds=range(8))))
        for pipe in (base, erased)
    ]
    assert found[0] >= 6
    assert found[1] <= 1
    others = [f"a {name}" for name in KNOWN if name != "pizza"]
    seen = judges["reporting"].names(efface.draw(erased, others, seeds=range(2)))
    right = [
        a == f"a {b}" for a, b in zip([o for o in others for _ in range(2)], seen, strict=True)
    ]
    assert sum(right) >= 0.7 * len(right)


def test_judges_differ_in_architecture_and_agree_in_labels(judges: dict[str, Judge]) -> None:
    one, other = judges["tuning"], judges["reporting"]
    assert type(one.model) is not type(other.model)
    assert one.groups == other.groups
    assert list(one.groups) == ["concept", "style", "background"]
    assert "nothing" in one.groups["concept"]


@pytest.mark.parametrize("name", ["tuning", "reporting"])
def test_a_batch_is_judged_as_one_by_one(judges: dict[str, Judge], name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 64, 64, 3), generator=generator, dtype=torch.uint8)
    pictures = [Image.fromarray(n.numpy()) for n in noise] + [Image.new("RGB", (64, 64), "white")]
    detect = judges[name].watch("pizza")
    together, apart = detect(pictures), [detect([p])[0] for p in pictures]
    for one, other in zip(together, apart, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.hit == other.hit
        assert one.labels["pizza"] == one.score
        likest = sorted(one.labels.values(), reverse=True)[:MOST]
        assert 1 - likest[-1] * (len(judges[name].groups["concept"]) - MOST) <= sum(likest) <= 1
    assert judges[name].names(pictures[-1:]) == ["nothing"]
    assert detect([]) == []


def test_unknown_names_are_refused(judges: dict[str, Judge], tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match="unicorn"):
        judges["tuning"].watch("unicorn")
    with pytest.raises(EffaceError, match="no image classifier"):
        Judge(tmp_path)


def test_judges_are_found_by_the_models_they_are_named_with(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(EffaceError, match="no judge"):
        reporting(str(tmp_path))
    (tmp_path / "judges.json").write_text(json.dumps({"model": "emoji"}))
    ours, theirs = (tuning(source).model.state_dict() for source in (str(tmp_path), "emoji"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (tmp_path / "judges.json").write_text(json.dumps({"model": ["unicorn"]}))
    with pytest.raises(EffaceError, match=r"unicorn.*emoji"):
        reporting(str(tmp_path))
