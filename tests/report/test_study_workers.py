"""A study on many workers: the same rows as in turn, stopped and gone on with, one at a time."""

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

from efface.output import hold
from efface.study import run
from efface.study_file import load_study
from tests.report.test_study import TEXT

Cli = Callable[..., Any]
TIMES = ("fit_seconds", "hashes")
"""What tells the time: a patch says when it was made, and a run's story has the patch's hash."""
COMMAND = "efface compare {}"


@pytest.fixture(scope="module")
def study(tiny: Path, tiny_judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, and one whose fit is refused."""
    path = tmp_path_factory.mktemp("study") / "s.toml"
    text = TEXT.format(model=tiny, judge=tiny_judge).replace("ridge = 1e-300", "ridge = 0.9")
    path.write_text(text + '[erasers.sae]\nmethod = "itd"\nsettings = { sae = "nowhere" }\n')
    return path


@pytest.fixture(scope="module")
def serial(study: Path) -> Path:
    """What a run in turn leaves."""
    out = study.with_name("serial")
    run(load_study(study), out, COMMAND.format(study), lambda what, step, of: None)
    return out


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> str:
    """As many in a worker as here: with more, sums may take another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", f"{torch.get_num_threads()}")
    return os.environ["OMP_NUM_THREADS"]


def untimed(out: Path) -> Any:
    told = json.loads((out / "study.json").read_text())
    for cell in told["cells"]:
        for key in TIMES:
            cell.pop(key, None)
    return told


def rows(out: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.jsonl")}
    return {name: data for name, data in found.items() if "sessions" not in name}


def pictures(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*.png")}


def test_workers_find_what_a_run_in_turn_finds(
    cli: Cli, study: Path, serial: Path, tmp_path: Path, threads: str
) -> None:
    many = tmp_path / "many"
    done = cli("compare", study, "-o", many, "--workers", 2, "--json")
    assert done.code == 0, done.err
    assert done.err == "", "workers are quiet"
    assert json.loads(done.out) == json.loads((many / "study.json").read_text())
    told = untimed(many)
    assert told == untimed(serial)
    assert [("error" in c, c["eraser"]) for c in told["cells"]] == [
        (False, "uce"), (False, "broken"), (True, "sae"),
    ]  # fmt: skip
    assert len(rows(many)) == 4
    assert rows(many) == rows(serial)
    assert pictures(many) == pictures(serial)


def test_two_studies_do_not_share_a_folder(cli: Cli, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    lock = hold(out, "study")
    done = cli("compare", study, "-o", out, "--workers", 2)
    assert done.code == 2
    assert done.err.startswith("efface: another study is writing into")
    assert [p.name for p in out.iterdir()] == ["lock"]
    lock.release()


def test_other_settings_are_refused_before_any_cell(cli: Cli, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "broken/cat").mkdir(parents=True)
    (out / "broken/cat/cell.json").write_text('{"asked": {}}')
    done = cli("compare", study, "-o", out)
    assert done.code == 2
    assert "broken/cat was made for other settings" in done.err
    assert not (out / "uce").exists()


def test_stopped_it_goes_on(
    cli: Cli, study: Path, serial: Path, tmp_path: Path, threads: str
) -> None:
    out = tmp_path / "out"
    # A test run in the background inherits that SIGINT is ignored; a user at a terminal does not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    running = subprocess.Popen(
        [sys.executable, "-c", f"{heard}; from efface.cli import main; main()",
         "compare", str(study), "-o", str(out), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(out.rglob("*.png")) and time.monotonic() < until:
        assert running.poll() is None, "it ended before it was stopped"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in told
    assert not list(out.rglob("*.tmp"))
    before = json.loads((out / "study.json").read_text())
    assert before["unfinished"] > 0
    done = cli("compare", study, "-o", out, "--workers", 2)
    assert done.code == 0, done.err
    assert untimed(out) == untimed(serial)
    assert pictures(out) == pictures(serial)
    assert rows(out) == rows(serial)
