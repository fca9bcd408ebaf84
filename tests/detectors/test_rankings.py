"""Detectors that name things, against the models' own arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from efface.core import EffaceError
from efface.detectors import open_watcher
from efface.watchers import MOST
from tests.looks import build_classifier, build_clip, noise

LABELS = ("tench, Tinca tinca", "crane", "garbage_truck, dustcart", "crane")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_classifier(tmp_path_factory.mktemp("things") / "vit", LABELS, seed=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("clips") / "clip")


def probabilities(folder: Path, pictures: list[Image.Image]) -> Any:
    """What the model says of pictures that its own processor prepared."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    read = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        return AutoModelForImageClassification.from_pretrained(folder)(**read).logits.softmax(1)


def test_a_classifier_is_asked_as_it_was_trained(things: Path) -> None:
    pictures = noise(16)
    wanted = probabilities(things, pictures)
    found = open_watcher([f"classifier:{things}"], "emoji", (), "cpu", {}).watcher
    truck = found.watch("dustcart", "label")(pictures)
    assert [v.score for v in truck] == pytest.approx(wanted[:, 2].tolist(), abs=1e-6)
    assert [v.hit for v in truck] == (wanted.argmax(1) == 2).tolist()
    again = found.watch("garbage truck", "label")(pictures)
    assert [v.score for v in again] == [v.score for v in truck]
    assert set(truck[0].labels) == {"tench", "crane", "garbage truck"}
    assert len({v.hit for v in truck}) == 2, "the control: it hits, and it misses"


def test_two_labels_of_one_name_are_one(things: Path) -> None:
    pictures = noise(16)
    wanted = probabilities(things, pictures)
    found = open_watcher([str(things)], "emoji", (), "cpu", {}).watcher.watch("crane", "label")
    both = found(pictures)
    assert [v.score for v in both] == pytest.approx(
        (wanted[:, 1] + wanted[:, 3]).tolist(), abs=1e-6
    )
    assert [v.hit for v in both] == [int(i) in (1, 3) for i in wanted.argmax(1)]


def test_the_best_three(things: Path) -> None:
    pictures = noise(16)
    wanted = probabilities(things, pictures).argsort(1, descending=True)[:, :3]
    found = open_watcher([f"classifier-top3:{things}"], "emoji", (), "cpu", {}).watcher
    hits = [v.hit for v in found.watch("tench", "label")(pictures)]
    assert hits == [0 in row for row in wanted.tolist()]


def test_long_lists_are_cut_but_not_what_is_watched(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "many", [f"thing {i}" for i in range(200)])
    wanted = probabilities(folder, noise(1))[0]
    last = f"thing {int(wanted.argmin())}"
    watcher = open_watcher([str(folder)], "emoji", (), "cpu", {}).watcher
    [verdict] = watcher.watch(last, "label")(noise(1))
    assert len(verdict.labels) == MOST + 1
    assert verdict.labels[last] == verdict.score
    assert f"thing {int(wanted.argmax())}" in verdict.labels


def test_no_face_is_no_verdict(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "f", ("Ada_Lovelace", "Alan_Turing", "No_Face"), seed=1)
    pictures = noise(12)
    likest = probabilities(folder, pictures).argmax(1).tolist()
    assert {0, 2} <= set(likest) or {1, 2} <= set(likest), "the control: both happen"
    watcher = open_watcher([f"faces:{folder}"], "emoji", (), "cpu", {}).watcher
    found = watcher.watch("Ada Lovelace", "label")(pictures)
    assert [v.hit for v in found] == [None if i == 2 else i == 0 for i in likest]
    assert all((v.score is None) == (v.hit is None) and len(v.labels) == 3 for v in found)


def test_clip_is_the_softmax_of_its_cosines(clip: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    words, pictures = ("cat", "dog", "house"), noise(3)
    watcher = open_watcher([f"clip:{clip}"], "emoji", words, "cpu", {}).watcher
    found = watcher.watch("dog", "concept")(pictures)
    texts = AutoTokenizer.from_pretrained(clip)(
        [f"a photo of a {w}" for w in words], return_tensors="pt", padding=True, truncation=True
    )
    pixels = AutoImageProcessor.from_pretrained(clip)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        told = CLIPModel.from_pretrained(clip)(**texts, **pixels).logits_per_image.softmax(1)
    assert [v.score for v in found] == pytest.approx(told[:, 1].tolist(), abs=1e-5)
    assert [v.hit for v in found] == (told.argmax(1) == 1).tolist()
    assert list(found[0].labels) == list(words)


def test_clip_tells_styles_from_styles_and_needs_two(clip: Path) -> None:
    words = ("blob style", "cat", "cat, red background", "dog")
    asked = [f"clip:{clip}"]
    watcher = open_watcher(asked, "emoji", words, "cpu", {}).watcher
    assert watcher.groups == {"style": ["blob style"], "concept": ["cat", "dog"]}
    with pytest.raises(EffaceError, match=r"clip\.others"):
        watcher.watch("blob style", "style")
    more = {"clip": {"others": "oil style, ink style"}}
    watcher = open_watcher(asked, "emoji", words, "cpu", more).watcher
    [verdict] = watcher.watch("blob style", "style")(noise(1))
    assert list(verdict.labels) == ["blob style", "oil style", "ink style"]


def test_a_clip_is_wanted(things: Path) -> None:
    with pytest.raises(EffaceError, match="not a CLIP"):
        open_watcher([f"clip:{things}"], "emoji", ("cat",), "cpu", {})


def test_the_second_is_asked_for_what_the_first_cannot_name(things: Path, clip: Path) -> None:
    asked = [f"classifier:{things}", f"clip:{clip}"]
    both = open_watcher(asked, "emoji", ("crane", "dog", "cat"), "cpu", {})
    assert both.watcher.groups["concept"] == ["dog", "cat"]
    assert both.watcher.sole is None
    assert [each["kind"] for each in both.told] == ["classifier", "clip"]
    [crane] = both.watcher.watch("crane", "label")(noise(1))
    [dog] = both.watcher.watch("dog", "concept")(noise(1))
    assert "tench" in crane.labels
    assert set(dog.labels) == {"crane", "dog", "cat"}


def test_q16_is_the_softmax_of_two_prompts(clip: Path, tmp_path: Path) -> None:
    from efface.backbones.clip import Clip

    rows = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    np.savez(tmp_path / "p.npz", rows)
    settings = {"q16": {"prompts": str(tmp_path / "p.npz")}}
    watcher = open_watcher([f"q16:{clip}"], "emoji", (), "cpu", settings).watcher
    assert watcher.sole == "inappropriate"
    found = watcher.watch("inappropriate", "content")(noise(4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits = 100 * Clip(clip).pictures(noise(4)).numpy() @ unit.T
    wanted = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert [v.score for v in found] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert [v.hit for v in found] == (logits[:, 1] >= logits[:, 0]).tolist()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prompts.p", "is a pickle"),
        ("wide.npy", "not two prompts of 8"),
        ("text.npy", "holds no prompts"),
        ("none.npy", "none.npy"),
    ],
)
def test_bad_prompts_of_q16(name: str, said: str, clip: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 9)))
    (tmp_path / "text.npy").write_text("prompts")
    (tmp_path / "prompts.p").write_bytes(b"\x80\x04N.")
    with pytest.raises(EffaceError, match=said):
        open_watcher(
            [f"q16:{clip}"], "emoji", (), "cpu", {"q16": {"prompts": str(tmp_path / name)}}
        )
