"""What is kept on disk to save time does not grow for ever, nor outlive the code that wrote it."""

import os
from pathlib import Path

import pytest
from torch import Generator

from efface.backbones.model import open_folder
from efface.cache import cache_folder, forget
from efface.core import Concept
from efface.edition import edition
from efface.train import UNFINISHED, standing_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    cache_folder().mkdir()
    return cache_folder()


def aged(folder: Path, name: str, seconds: int) -> None:
    path = folder / name
    path.touch()
    os.utime(path, (seconds, seconds))


def test_the_newest_of_a_kind_stay(cache: Path) -> None:
    for age in range(5):
        aged(cache, f"run-{(7 * age) % 5}.safetensors", age)
    aged(cache, "moments-0.safetensors", 0)
    forget("run", 2)
    assert sorted(p.name for p in cache.iterdir()) == [
        "moments-0.safetensors",
        "run-1.safetensors",
        "run-3.safetensors",
    ]


def test_there_need_be_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "none"))
    forget("run", 2)
    assert not cache_folder().exists()


def test_an_edition_is_every_letter_of_every_module(tmp_path: Path) -> None:
    def of(**modules: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in modules.items():
            path = folder / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        return edition(folder)

    assert of(a="x = 1", b_c="y = 2") == of(b_c="y = 2", a="x = 1")
    told = [of(a="x = 1"), of(a="x = 2"), of(b="x = 1"), of(a="x = 1", b=""), of(a_b="x = 1")]
    assert len(set(told)) == len(told)
    assert edition() == edition()


def test_what_another_version_left_is_not_finished(
    cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def standing() -> Path:
        rng = Generator().manual_seed(0)
        return standing_of(open_folder(tiny), Concept("cat", ("cat",)), {"steps": 3}, rng).path

    for age in range(UNFINISHED + 3):
        aged(cache, f"run-{age}.safetensors", age)
    here = standing()
    assert len(list(cache.glob("run-*"))) == UNFINISHED
    assert standing() == here
    monkeypatch.setattr("efface.train.edition", lambda: "another")
    assert standing() != here
