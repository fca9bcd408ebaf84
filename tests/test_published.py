"""Published figures: every one says where it is from, and the page shows what the files say."""

import copy
from typing import Any

import pytest

from studies.published import CLAIMS, PAGE, ROOT, records, tables

PAPERS: list[Any] = records()


def test_the_page_is_what_the_files_say() -> None:
    shown = PAGE.read_text().partition("<!-- published -->")[2].partition("<!-- /published -->")[0]
    assert shown.strip() == tables(PAPERS), "run: python -m studies.published"


@pytest.mark.parametrize("told", PAPERS, ids=[p.stem for p in sorted(CLAIMS.glob("*.json"))])
def test_every_figure_is_whole(told: Any) -> None:
    assert told.keys() == {"paper", "arxiv", "source", "read", "protocol", "caution", "figures"}
    assert told["read"] in ("by us", "in notes")
    assert all((ROOT / f"studies/{name}.toml").is_file() for name in told["protocol"])
    said = [(f["table"], f["what"], f["unit"]) for f in told["figures"]]
    assert len(set(said)) == len(said) > 0
    for figure in told["figures"]:
        assert figure.keys() == {"table", "what", "unit", "reported", "measured"}
        assert isinstance(figure["reported"], int | float)
        if "%" in figure["unit"]:
            assert 0 <= figure["reported"] <= 100
        if figure["unit"].startswith("share"):
            assert 0 <= figure["reported"] <= 1
        measured = figure["measured"]
        assert measured is None or measured.keys() == {"value", "interval", "n", "command"}


def test_every_figure_is_on_the_page() -> None:
    cells = [cell.strip() for line in tables(PAPERS).splitlines() for cell in line.split("|")]
    for told in PAPERS:
        for figure in told["figures"]:
            assert f"{figure['reported']:g}" in cells


def test_what_we_measured_is_beside_it() -> None:
    told = copy.deepcopy(PAPERS[0])
    told["figures"][0]["measured"] = {
        "value": 61.5, "interval": [50.25, 71], "n": 142, "command": "efface compare x.toml",
    }  # fmt: skip
    reported = told["figures"][0]["reported"]
    assert f"| {reported:g} **61.5 (50.25 to 71) of 142** |" in tables([told])


def test_an_attacked_rate_is_no_lower_than_the_plain_one() -> None:
    [told] = [p for p in PAPERS if p["arxiv"] == "2310.11868"]
    rates = {(f["table"], f["what"]): f["reported"] for f in told["figures"]}
    pairs = [(t, w) for t, w in rates if w.endswith(", unattacked")]
    assert len(pairs) == 47
    for table, what in pairs:
        attacked = rates[table, what.replace("unattacked", "UnlearnDiffAtk")]
        assert attacked >= rates[table, what]
