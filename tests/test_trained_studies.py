"""Pages show what the committed reports of trained methods and of white-box attacks say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface.rows import Rows
from studies import dit_trained, esd_cost, never_seen, white_box

ROOT = Path(__file__).parents[1]


def test_the_transformers_table_is_of_the_committed_cells() -> None:
    cells = list(Rows(ROOT / "claims", "dit-trained").told())
    assert cells
    assert dit_trained.table(cells) in (ROOT / "docs" / "families.md").read_text()


def test_the_newest_cell_of_a_method_counts() -> None:
    share = {"value": 0.25, "interval": [0.05, 0.6], "n": 8}
    told = {"found": share, "others": share}
    old = {"asked": {"method": "esd"}, "refused": "no"}
    new = {"asked": {"method": "esd"}, "before": told, "after": told, "CPU seconds": 2.4}
    text = dit_trained.table([old, new])
    assert "refused" not in text
    assert text.splitlines()[2].endswith("| 25 % (5–60) of 8 | 25 % (5–60) of 8 | 2 |")


def test_the_cost_of_esd_is_of_the_committed_runs() -> None:
    report = json.loads((ROOT / "claims" / "esd-cost.json").read_text())
    assert esd_cost.table(report) in (ROOT / "docs" / "esd.md").read_text()
    assert all(run["looks"][-1]["found"]["value"] == 0 for run in report["runs"])


@pytest.mark.parametrize(
    ("report", "table"),
    [
        ("white-box", lambda told: white_box.table(told["rows"])),
        ("never-seen", never_seen.table),
    ],
)
def test_white_box_tables_are_of_the_committed_rows(
    report: str, table: Callable[[dict[str, Any]], str]
) -> None:
    told = json.loads((ROOT / "claims" / f"{report}.json").read_text())
    assert table(told) in (ROOT / "docs" / "attacks.md").read_text()


def test_hits_of_a_training_are_counted_by_steps() -> None:
    def line(attack: str, *at: int) -> dict[str, Any]:
        return {"model": "uce", "thing": "cat", "attack": attack, "n": 4, "hit at": list(at)}

    rows = [line("none"), line("seeds"), line("inversion", 4, 1), line("relearning", 1, 3, 3, 5)]
    shares = never_seen.table({"rows": rows}).splitlines()[-1].split(" | ")
    assert [cell.split(" of ")[0] for cell in shares[1:]] == list("00211334")
