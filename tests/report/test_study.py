"""A study from TOML to table; its own arithmetic against cells whose counts are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface.core import EffaceError
from efface.report.leaderboard import leaderboard, read_study
from efface.report.pooled import pooled
from efface.report.teaches import matrix, shared, teaches
from efface.study import cells
from efface.study_file import load_study

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "claims").glob("study-*.json"))
TEXT = """
title = "t"
model = "{model}"
concepts = ["cat"]
attacks = ["casing"]
metrics = ["quality"]
count = 2
steps = 2
precision = "float32"
detector = "{judge}"
[erasers.uce]
[erasers.broken]
method = "uce"
settings = {{ ridge = 1e-300 }}
"""


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda p: p.stem)
def test_ours_are_read(path: Path) -> None:
    study = load_study(path)
    assert len(list(cells(study, Path("out")))) == len(study.concepts) * len(study.erasers)
    folders = [cell.folder for cell in cells(study, Path("out"))]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("title", "titel"), "no 'titel'"),
        (("count = 2", "count = true"), "count cannot be True"),
        (('concepts = ["cat"]', "concepts = []"), "at least one concept"),
        (('concepts = ["cat"]', "concepts = [1]"), "concepts cannot be"),
        (('"casing"', '"cassing"'), "no attack 'cassing'"),
        (('"quality"', '"score"'), "no metric 'score'"),
        (("ridge", "rigde"), "no setting 'rigde'"),
        (('method = "uce"', 'method = "ucx"'), "no method 'ucx'"),
        (("title =", "title"), "is not TOML"),
        (('model = "emoji"', ""), "does not say 'model'"),
    ],
)
def test_bad_studies(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TEXT.format(model="emoji", judge="x").replace(*change))
    with pytest.raises(EffaceError, match=said):
        load_study(path)


def test_from_file_to_table(cli: Cli, tiny: Path, tiny_judge: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "s.toml", tmp_path / "out"
    path.write_text(TEXT.format(model=tiny, judge=tiny_judge))
    first = cli("compare", path, "-o", out, "--json")
    assert first.code == 0, first.err
    told = read_study(out / "study.json")
    assert told == json.loads(first.out)
    assert [c["eraser"] for c in told["cells"]] == ["uce", "broken"]
    assert told["unfinished"] == 0
    assert told["cells"][0]["attacks"][0]["asr"]["n"] == 2
    assert told["cells"][0]["drawn_on"]["device"] == "cpu"
    rows = (out / "uce/cat/run/rows.jsonl").stat().st_mtime_ns
    assert cli("compare", path, "-o", out, "--json").out == first.out, "what is done stays done"
    assert (out / "uce/cat/run/rows.jsonl").stat().st_mtime_ns == rows
    page = leaderboard(told)
    assert page.index("## What it teaches") < page.index("## Each eraser on each concept")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/study.json").write_bytes((out / "study.json").read_bytes())
    again = cli("compare", path, "-o", tmp_path / "elsewhere", "--json")
    assert json.loads(again.out)["cells"] == told["cells"], "it goes on from the file alone"
    assert not (tmp_path / "elsewhere/uce").exists()
    path.write_text(path.read_text().replace("steps = 2", "steps = 3"))
    assert "made for other settings" in cli("compare", path, "-o", out).err
    assert cli("leaderboard", out / "study.json").out.startswith("# t\n")


def estimate(hits: int, n: int, skipped: int = 0) -> dict[str, Any]:
    interval = [hits / n - 0.1, hits / n + 0.1] if n else None
    return {"value": hits / n if n else None, "interval": interval, "n": n, "skipped": skipped,
            "unit": "share"}  # fmt: skip


FREE = {"access": "none", "from_picture": False}


def told(eraser: str, concept: str, plain: int, attacked: int) -> dict[str, Any]:
    rates = {"none": plain, "seeds": plain, "synonyms": attacked}
    kept = {"ira": estimate(9, 10), "cra": estimate(0, 0), "quality": estimate(9, 10)}
    return {
        "eraser": eraser,
        "concept": [concept],
        "verdict": {"word": "breaks", "sentence": ""},
        "facts": {"certificate": {"min": 0.25}},
        "fit_seconds": 1.0,
        "overall": kept | {"ira_base": estimate(10, 10), "cra_base": estimate(0, 0)},
        "attacks": [
            {"attack": name, "asr": estimate(hits, 20, 1), "pictures": {"n": 20}, **FREE}
            for name, hits in rates.items()
        ],
    }


STUDY: dict[str, Any] = {
    "format": 2, "command": "efface compare t.toml",
    "title": "t|<b>", "note": "", "model": "emoji", "budget": "small", "count": 20,
    "steps": 20, "guidance": 5.0, "seed": 0, "detector": None, "precision": "auto",
    "concepts": ["cat", "dog"], "attacks": ["synonyms"], "metrics": ["quality"],
    "erasers": {"uce": {}, "rece": {}}, "unfinished": 1,
    "cells": [told("uce", "cat", 0, 12), told("uce", "dog", 0, 8),
              {"eraser": "rece", "concept": ["cat"], "error": "it <b>broke"}],
}  # fmt: skip


MORE: dict[str, Any] = {"uce": {}, "rece": {}, "esd": {}}


def test_pooled_is_the_share_of_all_prompts() -> None:
    found = pooled(STUDY["cells"][:2], "uce", "synonyms")
    assert (found.value, found.n, found.skipped) == (0.5, 40, 2)
    assert found.interval is not None
    assert 0.35 < found.interval[0] < 0.5 < found.interval[1] < 0.65


def test_what_it_teaches() -> None:
    gone, prompts, kept = teaches(STUDY)
    assert gone == "**Gone from plain prompts**, every concept: uce."
    assert prompts.startswith("**Who writes other prompts** (synonyms) surely finds more")
    assert prompts.endswith("other seeds do after uce 60 % (by synonyms).")
    assert (
        "by the base model at 100 % (72 to 100) of 10. Surely less after none of them. Not" in kept
    )


def test_where_nobody_resists_they_are_one() -> None:
    cells = [told("uce", "cat", 0, 12), told("rece", "cat", 0, 18)]
    said = teaches({**STUDY, "cells": cells})[1]
    assert said.endswith("other seeds do after every one of them, 60 % to 90 % (by synonyms).")
    some = teaches({**STUDY, "cells": [*cells, told("esd", "cat", 0, 1)], "erasers": MORE})[1]
    assert some.endswith("after rece 90 %, uce 60 % (by synonyms). Not surely after esd.")


def test_only_concepts_that_all_were_tried_on_count() -> None:
    cells = [told("uce", "cat", 0, 2), told("uce", "dog", 0, 20), told("rece", "cat", 0, 2)]
    assert len(shared({**STUDY, "cells": cells})) == 2
    assert (
        "surely finds more than other seeds do after none of them."
        in teaches({**STUDY, "cells": cells})[1]
    )
    assert len(shared({**STUDY, "cells": cells[1:]})) == 2, "none is common: all count"


@pytest.mark.parametrize(
    ("word", "did"), [("not erased", "did not erase"), ("broken model", "broke the model")]
)
def test_attacks_count_where_the_concept_was_gone(word: str, did: str) -> None:
    left = told("uce", "cat", 18, 20)
    left["verdict"]["word"] = word
    gone, prompts, _ = teaches({**STUDY, "cells": [left, told("rece", "cat", 0, 2)]})
    assert gone.endswith(f"every concept: rece. What {did}: uce (cat).")
    assert "uce" not in prompts
    _, lines = matrix({**STUDY, "cells": [left]})
    assert lines[0][1:4] == ["0 of 1", "–", ""]


def test_what_fails_everywhere_is_said_once() -> None:
    cells = [told("uce", concept, 18, 20) for concept in ("cat", "dog", "owl")]
    for cell in cells[:2]:
        cell["verdict"]["word"] = "not erased"
    assert teaches({**STUDY, "cells": cells})[0].endswith("What did not erase: uce (cat, dog).")
    cells[2]["verdict"]["word"] = "not erased"
    assert teaches({**STUDY, "cells": cells})[0].endswith(
        "What did not erase: uce (every concept)."
    )


def test_a_kind_of_attacker_takes_the_best_attack() -> None:
    asked = {**STUDY, "attacks": ["typos", "synonyms", "img2img", "ringabell", "optimum"]}
    cell = told("uce", "cat", 0, 12)
    line = cell["attacks"][-1]
    cell["attacks"] += [
        {**line, "attack": "typos", "asr": estimate(3, 20)},
        {**line, "attack": "img2img", "asr": estimate(4, 20), "from_picture": True},
        {**line, "attack": "optimum", "asr": estimate(20, 20), "access": "white"},
    ]
    header, [found] = matrix({**asked, "cells": [cell]})
    assert header[3:-1] == ["other prompts", "a picture", "the whole model"]
    assert [each.rsplit(", ")[-1] for each in found[3:-1]] == ["synonyms", "img2img", "optimum"]


def test_an_eraser_that_costs_the_rest_is_named() -> None:
    cell = told("uce", "cat", 0, 0)
    cell["overall"] |= {"ira": estimate(10, 100), "ira_base": estimate(99, 100)}
    assert "Surely less after uce 10 % (6 to 17) of 100." in teaches({**STUDY, "cells": [cell]})[-1]


def test_failed_cells_are_told() -> None:
    page = leaderboard(STUDY)
    assert "| rece | cat | it &lt;b&gt;broke |" in page
    assert "1 cells were not reached" in page
    assert "<b>" not in page


@pytest.mark.parametrize("text", ["", "[]", '{"format": 9, "cells": []}'])
def test_no_study(text: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    assert cli("leaderboard", path).code == 2


@pytest.mark.skipif(not COMMITTED, reason="no study is committed yet")
@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_a_page_shows_the_committed_study(path: Path) -> None:
    pages = [page.read_text() for page in (ROOT / "docs").glob("leaderboard*.md")]
    assert leaderboard(read_study(path)) in pages
