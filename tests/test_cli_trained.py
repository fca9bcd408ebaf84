"""Training from the command line: progress, and nothing half-written whatever stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from efface.backbones.pipeline import apply, load_pipeline
from efface.patch import load, stack
from tests.equal import bits, contents, state

DRAWN = ("--drawings", "2", "--drawing-steps", "3", "--keep-drawings", "4", "--batch", "2")
SHORT = (*DRAWN, "--steps", "2", "--rate", "0.01")


def test_erases_saves_tells_and_reverts(
    cli: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.safetensors"
    done = cli("erase", tiny, "cat", "--method", "esd", *SHORT, "-o", out, "--json")
    assert done.code == 0, done
    told = json.loads(done.out)
    assert told["facts"]["steps"] == 2
    assert told["bytes"] == out.stat().st_size
    patch = load(out)
    numbers = sum(e.a.numel() for e in patch.edits)
    assert 4 * numbers <= told["bytes"] < 4 * numbers + 20_000, "its size is that of its edits"
    assert f"{len(patch.edits)} tensors, {numbers} numbers" in cli("info", out).out
    pipe = load_pipeline(str(tiny))
    before = state(pipe)
    erased = apply(pipe, patch)
    name = patch.edits[0].param.removeprefix("unet/")
    assert not torch.equal(erased.unet.get_parameter(name), pipe.unet.get_parameter(name))
    back = apply(pipe, patch, patch.scale(-1.0))
    for one, other in zip(back.unet.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert state(pipe) == before


def test_exports_what_it_applies(cli: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    """A folder whatever is trained; a LoRA where only matrices are."""
    for layers, out in (("x", tmp_path / "x"), ("kv", tmp_path / "kv")):
        cli("erase", tiny, "cat", "--method", "esd", *SHORT, "--layers", layers, "-o", out)
        assert cli("export", tiny, out, "-o", tmp_path / f"{layers}-model").code == 0
        here = apply(load_pipeline(str(tiny)), load(out)).unet.state_dict()
        there = load_pipeline(str(tmp_path / f"{layers}-model")).unet.state_dict()
        assert {n: bits(t) for n, t in here.items()} == {n: bits(t) for n, t in there.items()}
    lora = ("-o", tmp_path / "l.safetensors", "--as", "lora")
    assert "is no matrix" in cli("export", tiny, tmp_path / "x", *lora).err
    assert cli("export", tiny, tmp_path / "kv", *lora).code == 0


def test_stacked_with_a_map_the_order_counts(
    cli: Callable[..., Any], tiny: Path, tiny_patch: Path, tmp_path: Path
) -> None:
    """W T + D one way round, (W + D) T the other."""
    out = tmp_path / "p.safetensors"
    cli("erase", tiny, "dog", "--method", "esd", *SHORT, "-o", out)
    edit, mapped = load(out), load(tiny_patch)
    pipe = load_pipeline(str(tiny))
    one, other = (apply(pipe, *p).unet.state_dict() for p in ((mapped, edit), (edit, mapped)))
    differ = [n for n, t in one.items() if not torch.equal(t, other[n])]
    assert differ
    assert all("to_k" in n or "to_v" in n for n in differ)
    both = apply(pipe, stack([mapped, edit])).unet.state_dict()
    assert all(torch.allclose(both[n], t, atol=1e-6) for n, t in one.items())
    twice = stack([edit, edit])
    assert contents(twice)["edits"] == 2 * contents(edit)["edits"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_leaves_nothing(how: signal.Signals, tiny: Path, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    out.mkdir()
    wanted = ("erase", str(tiny), "cat", "--method", "esd", *DRAWN, "--steps", "1000000")
    # A test run in the background inherits that SIGINT is ignored; a user at a terminal does not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    running = subprocess.Popen(
        [sys.executable, "-c", f"{heard}; from efface.cli import main; main()",
         *wanted, "-o", str(out / "p.safetensors")],
        env={**os.environ, "EFFACE_CACHE": str(cache)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(list(cache.glob("moments-*.safetensors"))) < 2 and time.monotonic() < until:
        assert running.poll() is None, "it ended before it was stopped"
        time.sleep(0.05)
    running.send_signal(how)
    code = running.wait(60)
    assert code == (130 if how == signal.SIGINT else -9)
    assert not list(out.iterdir())
    assert not list(cache.glob("*.tmp"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--rate", "0"), "rate"),
        (("--layers", "most"), "x, kv, u, self or full"),
        (("--steps", "-3"), "steps"),
    ],
)
def test_bad_settings_are_refused(
    given: tuple[str, str], told: str, refused: Callable[..., str], tiny: Path
) -> None:
    assert told in refused("erase", tiny, "cat", "--method", "esd", *given, "-o", "OUT/p")


def test_a_loss_that_is_no_number_is_told_of(refused: Callable[..., str], tiny: Path) -> None:
    text = refused("erase", tiny, "cat", "--method", "esd", *DRAWN, "--rate", "1e30", "-o", "OUT/p")
    assert "the loss is" in text
    assert "lower the rate" in text
