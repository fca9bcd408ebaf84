"""Folders that are no run, damaged, empty, or of another version: one sentence and exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import write_run

Refused = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def change(run: Path, **fields: Any) -> None:
    story = json.loads((run / "run.json").read_text())
    for key, value in fields.items():
        if value is None:
            del story[key]
        else:
            story[key] = value
    (run / "run.json").write_text(json.dumps(story))


def test_no_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        assert "is no run" in refused("report", tmp_path / name, "-o", "OUT/r.html")


def test_run_without_rows(refused: Refused, run: Path) -> None:
    (run / "rows.jsonl").write_bytes(b"")
    assert "holds no pictures yet" in refused("report", run, "-o", "OUT/r.html")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": 99}, "another version"),
        ({"concept": None}, "does not say 'concept'"),
        ({"attacks": ["none"]}, "names no attacks"),
        ({"attacks": {"none": {}, "no-such-attack": {}}}, "no attack 'no-such-attack'"),
        ({"named": "x"}, "in no known form"),
        ({"named": {"model": "emoji", "patch": {"facts": [1]}}}, "in no known form"),
        ({"named": {"patch": {"curves": {"recovery": [{"norm": "x"}]}}}}, "in no known form"),
        ({"named": {"patch": {"curves": {"strength": [[0, 1, 2]]}}}}, "in no known form"),
    ],
)
def test_story(fields: dict[str, Any], said: str, refused: Refused, run: Path) -> None:
    change(run, **fields)
    assert said in refused("report", run, "-o", "OUT/r.html")


@pytest.mark.parametrize(
    "line",
    ["{}", "[1]", "nonsense", '{"root": null}', '{"root": {"prompt": 1}, "case": {}, "step": 0}'],
)
def test_rows(line: str, refused: Refused, run: Path) -> None:
    with (run / "rows.jsonl").open("a") as file:
        file.write(line + "\n")
    said = refused("report", run, "-o", "OUT/r.html")
    assert "run the audit in a new folder" in said


def test_half_a_line_is_what_a_kill_leaves(cli: Callable[..., Any], run: Path) -> None:
    whole = cli("report", run, "--format", "csv")
    with (run / "rows.jsonl").open("a") as file:
        file.write('{"root": {"pro')
    assert cli("report", run, "--format", "csv").out == whole.out


def test_a_picture_outside_the_folder_is_not_read(
    cli: Callable[..., Any], run: Path, tmp_path: Path
) -> None:
    secret = next((run / "pictures").iterdir())
    shutil.move(secret, tmp_path / secret.name)
    text = (run / "rows.jsonl").read_text()
    (run / "rows.jsonl").write_text(text.replace(f"pictures/{secret.name}", f"../{secret.name}"))
    done = cli("report", run, "-o", tmp_path / "r.html")
    assert done.code == 0
    assert "picture is damaged or gone" in (tmp_path / "r.html").read_text()


def test_one_bad_run_of_two_writes_nothing(refused: Refused, run: Path, tmp_path: Path) -> None:
    assert "absent" in refused("report", run, tmp_path / "absent", "-o", "OUT/r.html")
