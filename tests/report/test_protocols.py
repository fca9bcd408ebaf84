"""Published protocols run from end to end, the bundled model in place of weights nobody ships."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface.core import EffaceError
from efface.study import cells
from efface.study_file import load_study, said_by

Cli = Callable[..., Any]
STUDIES = Path(__file__).parents[2] / "studies"
PAPERS = ("rece_", "itd_", "unlearndiffatk_", "receler_")
PUBLISHED = sorted(p for paper in PAPERS for p in STUDIES.glob(f"{paper}*.toml"))
SMALL = {
    "model": "emoji",
    "concepts": '["cigarette"]',
    "keep": '["cat", "dog", "blob style"]',
    "detector": "emoji-reporting",
    "detecting": "{}",
    "watch": "cigarette",
    "attacks": '["casing"]',
    "budget": "small",
    "count": 1,
    "steps": 1,
    "device": "cpu",
    "precision": "float32",
    "erasers": '{uce = {preset = "paper"}}',
}


def changed(changes: dict[str, Any]) -> list[str]:
    return [f"--set={key}={value}" for key, value in changes.items()]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_a_published_protocol_runs(path: Path, cli: Cli, tmp_path: Path) -> None:
    prompts = tmp_path / "cigarette.csv"
    prompts.write_text("prompt,evaluation_seed\na lit cigarette,7\n")
    given = SMALL | {"prompts": tmp_path / "{concept}.csv"}
    done = cli("compare", path, "-o", tmp_path / "out", "--json", *changed(given))
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert "--set=model=emoji" in told["command"]
    [cell] = told["cells"]
    assert "error" not in cell, cell
    assert {line["attack"]: line["asr"]["n"] for line in cell["attacks"]}["none"] == 1
    assert cell["overall"]["ira"]["n"] == 2
    assert cell["errors"] == 0
    story = json.loads((tmp_path / "out/uce/cigarette/run/run.json").read_text())
    assert (story["prompts"]["file"], story["guidance"]) == ("cigarette.csv", 7.5)


def test_a_protocol_that_lacks_its_files_says_so(cli: Cli, tmp_path: Path) -> None:
    path = STUDIES / "unlearndiffatk_objects.toml"
    for name in ("church", "garbage_truck", "parachute", "tench"):
        (tmp_path / f"{name}.csv").write_text("prompt\na thing\n")
    for changes, said in (
        ({}, "prompts/church.csv cannot be read"),
        ({"prompts": tmp_path / "{concept}.csv"}, "needs models/resnet-50, which is not there"),
    ):
        done = cli("compare", path, "-o", tmp_path / "out", *changed(changes))
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_concepts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Ada Lovelace\n\n  Alan Turing \n")
    assert said_by(["cat", f"@{tmp_path}/names.txt"]) == ["cat", "Ada Lovelace", "Alan Turing"]
    with pytest.raises(EffaceError, match="cannot be read"):
        said_by(["@nowhere.txt"])


def test_changes_reach_tables_and_keep_their_types() -> None:
    path = STUDIES / "rece_styles.toml"
    study = load_study(path, ["erasers.esd.settings.steps=5", "steps=3", "model=/models/a b"])
    assert study.erasers["esd"] == {"preset": "paper", "settings": {"steps": 5}}
    assert (study.steps, study.model) == (3, "/models/a b")
    assert len(list(cells(study, Path("out")))) == 15
    file = study.file(["Van Gogh"])
    assert file is not None
    assert file.path == Path("prompts/artists/Van_Gogh.csv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("steps", "is not KEY=VALUE"),
        ("steps=many", "steps cannot be 'many'"),
        ("stepz=1", "a study has no 'stepz'"),
        ("title.a=1", "title is no table"),
        ("erasers.esd.settings.step=5", "no setting 'step'"),
    ],
)
def test_bad_changes(change: str, said: str) -> None:
    with pytest.raises(EffaceError, match=said):
        load_study(STUDIES / "rece_styles.toml", [change])
