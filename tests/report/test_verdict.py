"""The words of verdicts on runs whose outcome is known, each beside one that differs in a point."""

from pathlib import Path
from typing import Any

import pytest

from efface.report.evidence import gather
from efface.report.page import worst
from efface.report.verdict import decide
from tests.report.folders import write_run

MANY = 20
GONE, SEEN = (0.1,) * MANY, (0.9,) * MANY


@pytest.mark.parametrize(
    ("word", "how"),
    [
        ("holds", {}),
        ("breaks", {"attacked": SEEN[:10] + GONE[10:]}),
        ("undecided", {"attacked": SEEN[:3] + GONE[3:]}),
        ("undecided", {"attacked": (None, *GONE[1:])}),
        ("not erased", {"erased": SEEN}),
        ("not erased", {"erased": SEEN[:12] + GONE[12:]}),
        ("broken model", {"kept": (0.9,) * 5 + (0.1,) * 5}),
        ("not measured", {"base": GONE}),
        ("not measured", {"erased": (None,) * MANY}),
        ("not measured", {"kept": (None,) * 10}),
        ("unfinished", {"finished": False}),
    ],
)
def test_word(word: str, how: dict[str, Any], tmp_path: Path) -> None:
    whole = {"base": SEEN, "erased": GONE, "attacked": GONE, **how}
    found = gather(write_run(tmp_path / "run", **whole))
    assert found.verdict.word == word, found.verdict.sentence


def test_sentence_has_the_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attacked=(0.9, 0.9, *(0.2,) * 6))
    said = gather(run).verdict.sentence
    assert "from 100 % to 0 % (0 to 32) of its prompts" in said
    assert "the worst of 2 attacks, “synonyms”, brings it back in 25 % (7 to 59)" in said


def test_sentence_of_attacks_that_add_nothing(tmp_path: Path) -> None:
    said = gather(write_run(tmp_path / "run")).verdict.sentence
    assert "none of 2 attacks shows it in more, 0 % (0 to 32)" in said


def test_redrawn_pictures_are_told_apart(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run", base=SEEN, erased=GONE, attacked=SEEN))
    assert found.verdict.word == "breaks"
    lines = [{**x, "redrawn": x["attack"] == "synonyms"} for x in found.table["attacks"]]
    apart = found._replace(table={**found.table, "attacks": lines})
    said = decide(apart.table, found.unjudged, finished=True)
    shown = [w["attack"] for w in map(worst, (found, apart)) if w is not None]
    assert shown == ["synonyms", "seeds"]
    assert said.word == "holds"
    assert said.sentence.endswith("; redrawn from a picture of it, “synonyms” shows it in 100 % "
                                  "(84 to 100).")  # fmt: skip


def test_a_redrawing_that_was_not_judged_decides_nothing_either(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run", base=SEEN, erased=GONE, attacked=(None,) * MANY))
    assert found.verdict.word == "undecided"
    lines = [{**x, "redrawn": x["attack"] == "synonyms"} for x in found.table["attacks"]]
    said = decide({**found.table, "attacks": lines}, found.unjudged, finished=True)
    assert said.word == "holds"
    assert "redrawn" not in said.sentence


def test_failures_stay_in_sight(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attacked=(None, None, *(0.2,) * 6), base=(None,) + (0.9,) * 7)
    found = gather(run)
    assert len(found.faults) == 3
    assert found.unjudged == {"none": 0, "seeds": 0, "synonyms": 2}
    assert found.table["overall"]["base_rate"]["n"] == 7
    assert found.table["overall"]["base_rate"]["skipped"] == 1


def test_damage_is_told_by_concept(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run", kept=(0.9, 0.05, 0.9, 0.9, 0.05, 0.9)))
    first, *others = found.moved
    assert (first.name, first.hits_before, first.hits_after, first.n) == ("tree", 2, 0, 2)
    assert first.change == pytest.approx(0.05 - 0.95)
    assert first.seen in ("cat", "dog", "house")
    assert [m.name for m in others] == ["dog", "house"]
    assert all(m.change == pytest.approx(-0.05) and m.seen is None for m in others)


def test_threshold_curves_fall(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run", attacked=(0.45, *(0.2,) * 7)))
    at, base, erased, attacked, n = found.threshold
    assert n == 8
    for curve in (base, erased, attacked):
        assert curve[0] == 1
        assert curve == sorted(curve, reverse=True)
    assert all(e <= a <= b for e, a, b in zip(erased, attacked, base, strict=True))
    assert attacked[at.index(0.4)] == 1 / 8
