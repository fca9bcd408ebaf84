"""Learning from captions: bad files, runs that were killed, and the command."""

import itertools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from efface.backbones.model import Model, open_folder
from efface.captions import FEWEST, CaptionFile, Listed, said
from efface.core import EffaceError, quiet
from efface.sae import load
from efface.sae_learn import CHECKPOINT, Learning, learn, rows_of
from efface.sae_own import own, own_captions
from efface.sae_train import Recipe
from tests.conftest import Ran

SITE = "text_encoder/encoder.layers.0"
RECIPE = Recipe(features=64, k=4, epochs=3, batch=64, warmup=2)
CAPTIONS = Listed([f"a {a} and a {b}" for a in ("cat", "dog", "house") for b in "abcdefgh"])


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


def bits(folder: Path) -> dict[str, Any]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Killed(Exception):
    """Stands for a signal."""


@pytest.mark.parametrize("last", [1, 7, 8, 12])
def test_killed_run_ends_with_the_same_bits(
    last: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efface.sae_learn.CHUNK", 10)  # three chunks, the last one smaller
    learn(model, SITE, CAPTIONS, RECIPE, quiet, tmp_path / "whole", every=0.0)
    steps = 0

    def killer(what: str, step: int, of: int) -> None:
        nonlocal steps
        steps += 1
        if steps > last:
            raise Killed

    with pytest.raises(Killed):
        learn(model, SITE, CAPTIONS, RECIPE, killer, tmp_path / "killed", every=0.0)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [CHECKPOINT]
    learn(model, SITE, CAPTIONS, RECIPE, quiet, tmp_path / "killed")
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def test_checkpoint_of_another_run_is_refused(model: Model, tmp_path: Path) -> None:
    run = Learning(model, SITE, CAPTIONS, RECIPE)
    (tmp_path / CHECKPOINT).write_bytes(run.state())
    for captions, recipe, told in (
        (CAPTIONS, Recipe(features=64, k=5), "another recipe"),
        (Listed([*CAPTIONS.texts, "a cat"]), RECIPE, "another captions"),
    ):
        with pytest.raises(EffaceError, match=told):
            learn(model, SITE, captions, recipe, quiet, tmp_path)
    data = bytearray(run.state())
    data[-1] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(data)
    with pytest.raises(EffaceError, match="is damaged: delete it"):
        learn(model, SITE, CAPTIONS, RECIPE, quiet, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(data[:100])
    with pytest.raises(EffaceError, match=r"is damaged \("):
        learn(model, SITE, CAPTIONS, RECIPE, quiet, tmp_path)


def test_start_token_and_padding_are_left_out(model: Model) -> None:
    heard = model.heard(["a cat"], SITE)
    found = rows_of(model, SITE, ["a cat"])
    assert torch.equal(found, heard.rows[0, 1:4])  # "a", "cat" and the end
    assert heard.rows.shape[1] == 16


def test_own_words_are_learned_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = own(model, SITE, quiet, RECIPE)
    monkeypatch.setattr(Learning, "run", None)
    again = own(model, SITE, quiet, RECIPE)
    assert torch.equal(first.W_enc, again.W_enc)


def test_captions_of_words_say_them_all() -> None:
    made = list(said(["cat", "dog"], ["red style"], 64, 0).read())
    assert len(made) == 64 == len(list(said(["cat", "dog"], ["red style"], 64, 0).read()))
    assert made == list(said(["cat", "dog"], ["red style"], 64, 0).read())
    assert made != list(said(["cat", "dog"], ["red style"], 64, 1).read())
    for word in ("cat", "dog", "red style"):
        assert sum(word in text for text in made) > 16
    with pytest.raises(EffaceError, match="no words"):
        said([], [], 1, 0)


GOOD = "a cat\n" * FEWEST
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds no caption"),
    "blank": (b"\n \n\t\n" * 50, "holds no caption"),
    "one line": (b"a cat", "holds one caption"),
    "few": (b"a cat\n" * (FEWEST - 1), f"holds {FEWEST - 1} captions"),
    "latin-1": (GOOD.encode() + "a caf\xe9\n".encode("latin-1"), "line 17 is not UTF-8"),
    "binary": (bytes(range(256)) * 99, "is not UTF-8"),
    "one huge line": (b"a cat " * 10**5, "line 1 has 16384 bytes or more"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_captions_are_refused_by_the_command(
    case: str, tiny: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    data, told = FILES[case]
    path = tmp_path / "captions.txt"
    path.write_bytes(data)
    message = refused("train-sae", tiny, "--captions", path, "-o", "OUT/sae")
    assert told in message
    assert str(path) in message


def test_other_bad_input_is_refused(
    tiny: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ("train-sae", tiny, "-o", "OUT/sae", "--captions")
    assert "does not exist" in refused(*command, tmp_path / "none.txt")
    assert "is not a regular file" in refused(*command, tmp_path)
    path = tmp_path / "captions.txt"
    path.write_text(GOOD)
    assert "all rows" not in refused(*command, path, "--encoder", "text_encoder_2")
    assert "no layer 9" in refused(*command, path, "--layer", "9")
    assert "features at least k" in refused(*command, path, "--features", "8", "--k", "9")


def test_a_million_lines_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("\ufeff" + "".join(f"a cat and {i}\n" for i in range(10**6)))
    found = CaptionFile(path)
    assert found.count == 10**6
    tracemalloc.start()
    assert next(found.read()) == "a cat and 0"
    assert [*itertools.islice(found.read(), 999, 1001)] == ["a cat and 999", "a cat and 1000"]
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_command_learns_and_erase_uses_it(
    tiny: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    texts = own_captions(open_folder(tiny)).read()
    (tmp_path / "captions.txt").write_text("\n".join(texts))
    command = ["train-sae", tiny, "--captions", tmp_path / "captions.txt", "-o", tmp_path / "sae"]
    command += ["--features", 512, "--k", 8, "--epochs", 2, "--batch", 128]
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["site"] == "text_encoder/encoder.layers.1"
    assert {"explained", "l0", "dead", "tokens"} <= set(told)
    assert told["l0"] <= 8
    assert load(tmp_path / "sae").metadata["hook_name"] == told["site"]
    again = cli(*command)
    assert again.code == 2
    assert "holds an autoencoder" in again.err
    patch = tmp_path / "no-cat.safetensors"
    done = cli("erase", tiny, "cat", "--method", "itd", "--sae", tmp_path / "sae", "-o", patch)
    assert done.code == 0, done.err
    shown = cli("info", patch)
    assert "features at text_encoder/encoder.layers.1" in shown.out
