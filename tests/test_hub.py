"""A patch goes to the hub and comes back, through huggingface_hub and a stand-in of its server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import efface
from efface.core import EffaceError
from efface.hub import local
from tests.equal import contents
from tests.hub_stand_in import TOKEN, Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


def run(hub: Hub, cache: Path, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """`efface` in a process that takes the stand-in for the hub."""
    there = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
    silent = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-c", "from efface.cli import main; main()", *arguments],
        env={**os.environ, **there, **silent},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_there_and_back(hub: Hub, tiny_patch: Path, tmp_path: Path) -> None:
    code, out, err = run(hub, tmp_path / "one", "push", str(tiny_patch), "me/no-cat", "--json")
    assert code == 0, err
    assert json.loads(out)["patch"] == "hub:me/no-cat"
    assert hub.repositories == {"me/no-cat": {"patch.safetensors": tiny_patch.read_bytes()}}
    assert not hub.private
    code, out, err = run(hub, tmp_path / "two", "info", "hub:me/no-cat", "--json")
    assert code == 0, err
    here = contents(efface.load(tiny_patch))
    assert json.loads(out)["concept"]["erase"] == list(here["concept"].erase)
    assert json.loads(out)["bytes"] == tiny_patch.stat().st_size
    [fetched] = (tmp_path / "two").rglob("snapshots/*/patch.safetensors")
    assert contents(efface.load(fetched)) == here


def test_private_under_another_name(hub: Hub, tiny_patch: Path, tmp_path: Path) -> None:
    name = "second.safetensors"
    code, out, err = run(
        hub, tmp_path, "push", str(tiny_patch), "me/x", "--name", name, "--private"
    )
    assert code == 0, err
    assert f"hub:me/x/{name}" in out
    assert hub.private == {"me/x"}
    assert run(hub, tmp_path, "info", f"hub:me/x/{name}")[0] == 0
    code, _, err = run(hub, tmp_path, "info", "hub:me/x")
    assert (code, "holds no patch.safetensors" in err) == (2, True), err


def test_what_is_not_there_is_refused(hub: Hub, tiny_patch: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        (("info", "hub:me/nothing"), "no repository me/nothing"),
        (("info", "hub:me"), "write hub:owner/name"),
        (("push", str(tmp_path / "none"), "me/x"), "does not exist"),
    ):
        code, out, err = run(hub, tmp_path / "cache", *arguments)
        assert (code, out) == (2, ""), err
        assert reason in err
        assert len(err.splitlines()) == 1
    code, _, err = run(hub, tmp_path / "cache", "push", str(tiny_patch), "me/x", token="wrong")
    assert code == 2, err
    assert "cannot push to 'me/x'" in err
    assert not hub.repositories


def test_a_file_is_its_own_path(tmp_path: Path) -> None:
    assert local(tmp_path / "p.safetensors") == tmp_path / "p.safetensors"
    with pytest.raises(EffaceError, match="check the network"):
        local("hub:me/no-cat")  # tests run offline
