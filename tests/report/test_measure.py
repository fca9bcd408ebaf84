"""`efface measure` on a finished audit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface.store import read
from tests.looks import build_clip

Cli = Callable[..., Any]
CLIP = "a tiny CLIP"


def test_a_run_is_measured(cli: Cli, audited: Path, tiny_judge: Path, tmp_path: Path) -> None:
    clip = build_clip(tmp_path / "clip", seed=3)
    asked = ("measure", audited, "--extractor", tiny_judge, "--clip", clip)
    told = json.loads(cli(*asked, "--json").out)
    drawn = sum(row.attack in ("kept", "across") for row in read(audited).rows)
    names = ("fid", "kid", "cmmd", "picture-change", "clip-score", "clip-score, base")
    assert {name: told[name]["n"] for name in names} == dict.fromkeys(names, drawn)
    assert told["clip-score"]["value"] > 0
    assert told["clip-score"]["value"] != told["clip-score, base"]["value"]
    assert set(told["models"]) == {str(tiny_judge), str(clip)}
    shown = cli(*asked, "--reference", audited / "pictures")
    assert shown.code == 0, shown.err
    assert "fid, base" in shown.out
    assert "of what must stay" in shown.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give --extractor FOLDER or --clip FOLDER"),
        (("--clip", "x", "--reference", "x"), "by an --extractor"),
        (("--clip", "nowhere"), "no CLIP at nowhere"),
        (("--extractor", "nowhere"), "no image model at nowhere"),
        (("--clip", CLIP, "--device", "tpu9"), "no device 'tpu9' here"),
    ],
)
def test_bad_input(
    more: tuple[str, ...], said: str, cli: Cli, audited: Path, tmp_path: Path
) -> None:
    clip = build_clip(tmp_path / "clip") if CLIP in more else ""
    done = cli("measure", audited, *(clip if each == CLIP else each for each in more))
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
