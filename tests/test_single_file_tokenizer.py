"""Tokenizers for single-file checkpoints, which bring none."""

from pathlib import Path

import pytest

from efface.backbones.single_file import TOKENIZER
from efface.core import EffaceError
from tests.test_single_file_text import file_of


def cached(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """A Hugging Face cache that holds these files of CLIP's repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    repository = folder / f"models--{TOKENIZER.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


def test_tokenizer_of_a_folder(tiny: Path, tmp_path: Path) -> None:
    file = file_of("sd1", tmp_path)
    assert file.tokenizer_folder(tiny) == tiny / "tokenizer"
    assert file.tokenizer_folder(tiny / "tokenizer") == tiny / "tokenizer"
    with pytest.raises(EffaceError, match=f"{tiny / 'unet'} holds no tokenizer"):
        file.tokenizer_folder(tiny / "unet")
    file = file_of("sdxl", tmp_path)
    assert file.tokenizer_folder(tiny, "tokenizer_2") == tiny / "tokenizer"  # one vocabulary
    file = file_of("sd3", tmp_path)
    with pytest.raises(EffaceError, match="holds no tokenizer_3"):
        file.tokenizer_folder(tiny, "tokenizer_3")


@pytest.mark.parametrize("names", [["tokenizer.json"], ["vocab.json", "merges.txt"]], ids=str)
def test_tokenizer_of_the_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    file, snapshot = file_of("sd3", tmp_path), cached(tmp_path / "hub", monkeypatch, *names)
    assert file.tokenizer_folder() == file.tokenizer_folder(which="tokenizer_2") == snapshot
    assert file.tokenizer_folder(tiny) == tiny / "tokenizer"
    with pytest.raises(EffaceError, match="brings no tokenizer_3"):
        file.tokenizer_folder(which="tokenizer_3")


@pytest.mark.parametrize("names", [[], ["vocab.json"], ["config.json"]], ids=str)
def test_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    file, _ = file_of("sd1", tmp_path), cached(tmp_path / "hub", monkeypatch, *names)
    with pytest.raises(
        EffaceError, match=f"give a diffusers folder .* or run: hf download {TOKENIZER} tok"
    ):
        file.tokenizer_folder()
