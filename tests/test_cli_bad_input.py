"""Bad input: one clear sentence on stderr, exit code 2, nothing written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import efface

Cli = Callable[..., Any]
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TINY", "cat", "--method", "magic"], ["'magic'", "race, rece, "]),
        (["nowhere", "cat"], ["'nowhere'", "'emoji'"]),
        (["no where/at all", "cat"], ["no where/at all"]),
        (["owner/name", "cat"], ["'owner/name'", "hub"]),
        (["TINY", "cat", "--preset", "magic"], ["'magic'", "nudity"]),
        (["TINY", "cat", "--magic", "1"], ["'magic'", "derivation, mu, epochs"]),
        (["TINY", "cat", "--set", "magic"], ["'magic'", "derivation, mu, epochs"]),
        (["TINY", "cat", "--mu", "much"], ["mu", "'much'", "float"]),
        (["TINY", "cat", "--mu", "nan"], ["mu", "'nan'"]),
        (["TINY", "cat", "--ridge", "0"], ["ridge", "above 0"]),
        (["TINY", "cat", "--epochs", "-1"], ["epochs", "below 0"]),
        (["TINY", "cat", "--epochs", "1.5"], ["epochs", "int or none"]),
        (["TINY", "cat", "--derivation", "magic"], ["'magic'", "regzero"]),
        (["TINY", "cat", "--strength", "nan"], ["strength"]),
        (["TINY", ""], ["tokenizes to nothing"]),
        (["TINY", "cat", "  "], ["tokenizes to nothing"]),
        (["TINY", "cat", "--keep", " Cat"], ["'cat'", "both erased and kept"]),
        (["TINY", "cat", "dog", "--toward", "a", "--toward", "b", "--toward", "c"], ["3 targets"]),
        (["TINY", "cat", "--grid", "OUT/p"], ["two files"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_erase(
    refused: Callable[..., str], tiny: Path, arguments: list[str], words: list[str]
) -> None:
    told = refused("erase", *[str(tiny) if a == "TINY" else a for a in arguments], "-o", "OUT/p")
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    "arguments",
    [
        ["erase"],
        ["erase", "TINY"],
        ["erase", "TINY", "cat", "--mu"],
        ["draw", "TINY", "cat"],
        ["draw", "TINY", "cat", "--grid", "-o", "p.png"],
        ["draw", "TINY", "cat", "--steps", "0", "-o", "p.png"],
        ["draw", "TINY", "cat", "--guidance", "nan", "-o", "p.png"],
        ["info", "p", "--plot", "c.png"],
        ["magic"],
        ["models", "--magic"],
    ],
    ids=" ".join,
)
def test_usage(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*[str(tiny) if a == "TINY" else a for a in arguments])
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[3])
    save_file(tensors, path)


def garble(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("command", "part", "harm"),
    [
        ("erase", "model_index.json", garble),
        ("erase", "concepts.json", garble),
        ("erase", UNET, Path.unlink),
        ("erase", UNET, shorten),
        ("erase", TEXT, Path.unlink),
        ("erase", TEXT, shorten),
        ("erase", TEXT, lose),
        ("erase", "text_encoder/config.json", Path.unlink),
        ("erase", "tokenizer/tokenizer.json", Path.unlink),
        ("erase", "tokenizer/tokenizer.json", garble),
        ("erase", "tokenizer/tokenizer_config.json", Path.unlink),
        ("draw", UNET, shorten),
        ("draw", UNET, lose),
        ("draw", "unet/config.json", Path.unlink),
        ("draw", "vae/diffusion_pytorch_model.safetensors", shorten),
        ("draw", "vae/diffusion_pytorch_model.safetensors", Path.unlink),
        ("draw", "scheduler/scheduler_config.json", garble),
        ("draw", TEXT, lose),
        ("export", "vae/diffusion_pytorch_model.safetensors", shorten),
        ("export", UNET, shorten),
    ],
)
def test_damaged_model(
    refused: Callable[..., str],
    tiny: Path,
    tiny_patch: Path,
    tmp_path: Path,
    command: str,
    part: str,
    harm: Callable[[Path], None],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    harm(model / part)
    what: object = tiny_patch if command == "export" else "cat"
    told = refused(command, model, what, "-o", "OUT/x")
    assert str(model) in told


@pytest.mark.parametrize("command", ["erase", "draw", "export"])
def test_output_that_cannot_be(
    cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    what = tiny_patch if command == "export" else "cat"
    places = {
        tmp_path / "there": "--force",
        tmp_path / "missing" / "p": "not a folder",
        tmp_path / "there" / "p": "not a folder",
        tmp_path / ("n" * 300): "cannot be written",
        Path("/proc/p"): "cannot be written",
    }
    for place, word in places.items():
        done = cli(command, tiny, what, "-o", place)
        assert done.code == 2, place
        assert word in done.err
        assert len(done.err.splitlines()) == 1
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"mine"]


def test_force_replaces_a_file(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    out.write_bytes(b"mine")
    assert cli("erase", tiny, "cat", "-o", out, "--force").code == 0
    assert efface.load(out).concept.erase == ("cat",)
    assert cli("erase", tiny, "cat", "-o", tmp_path, "--force").code == 2


def test_a_failing_command_leaves_the_old_file(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    out.write_bytes(b"mine")
    assert cli("erase", tiny, " ", "-o", out, "--force").code == 2
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9, 1.0])
def test_ctrl_c(tiny: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = "from efface.cli import main; print('ready', flush=True); main()"
    argv = [sys.executable, "-c", code, "erase", str(tiny), "cat", "-o", str(out / "p")]

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    started = time.monotonic()
    with start() as whole:
        whole.communicate()
    took = time.monotonic() - started
    (out / "p").unlink()
    with start() as child:
        time.sleep(share * took)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate()
    assert "Traceback" not in told
    if list(out.iterdir()):  # the work was done before the signal came
        assert list(out.iterdir()) == [out / "p"]
        efface.load(out / "p")
    else:
        assert child.returncode == 130


def test_libraries_do_not_tell_the_error_too(tiny: Path, tmp_path: Path) -> None:
    """In a process of its own: loggers write to the stderr of when they were imported."""
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()
    command = [sys.executable, "-m", "efface", "draw", str(model), "cat", "-o", str(tmp_path / "x")]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"efface: {model}")
