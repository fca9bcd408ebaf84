"""A study's cells as tasks of a real Ray of this machine, where Ray is installed."""

import importlib.util
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from efface.core import EffaceError
from efface.workers import Lost, _there, on_ray
from tests.report.test_study import TEXT
from tests.report.test_study_workers import rows, serial, study, threads, untimed
from tests.test_workers import (
    begun,
    gone,
    killed_at_two,
    killed_or_long,
    refused_at_two,
    squared,
    unseen,
    until,
)

__all__ = ["serial", "study", "threads"]  # fixtures
Cli = Callable[..., Any]
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: efface[ray]")


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_one_sentence(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TEXT.format(model="emoji", judge="emoji-reporting"))
    done = cli("compare", path, "-o", tmp_path / "out", "--ray", "local")
    assert (done.code, done.err) == (2, "efface: --ray needs Ray: pip install efface[ray]\n")
    assert not (tmp_path / "out").exists()


def test_a_machine_that_sees_other_folders_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = Path("proof")
    with pytest.raises(EffaceError, match=r"does not see .* name with -o a folder that all"):
        _there(squared, 3, tmp_path, proof)
    proof.touch()
    assert _there(squared, 3, tmp_path, proof) == 9
    with pytest.raises(EffaceError, match=r"has no folder .*/nowhere"):
        _there(squared, 3, tmp_path / "nowhere", proof)


@needs_ray
def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(EffaceError, match=f"no Ray at 127.0.0.1:{port} .*: start one"):
        on_ray(f"127.0.0.1:{port}", tmp_path, 0)


@needs_ray
def test_what_tasks_give(tmp_path: Path) -> None:
    found = dict(on_ray("local", tmp_path, 0)(killed_at_two, [1, 2, 3], unseen))
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], Lost)
    with pytest.raises(EffaceError) as refused:
        list(on_ray("local", tmp_path, 0)(refused_at_two, [2], unseen))
    assert str(refused.value) == "there is no two"
    assert not list(tmp_path.iterdir())


@needs_ray
def test_closed_it_ends_what_runs(tmp_path: Path) -> None:
    path = tmp_path / "long"
    pieces: list[Path | int] = [path, 2]
    with closing(on_ray("local", tmp_path, 0)(killed_or_long, pieces, unseen)) as found:
        assert isinstance(next(found)[1], Lost)
        until(lambda: begun(path))
    until(lambda: gone(path))


@needs_ray
def test_a_study_on_ray(cli: Cli, study: Path, serial: Path, tmp_path: Path, threads: str) -> None:
    out = tmp_path / "out"
    done = cli("compare", study, "-o", out, "--ray", "local", "--json")
    assert done.code == 0, done.err
    assert untimed(out) == untimed(serial)
    assert rows(out) == rows(serial)
