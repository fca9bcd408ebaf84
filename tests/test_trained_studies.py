"""Pages show what the committed reports of trained methods say."""

import json
from pathlib import Path

from efface.rows import Rows
from studies import dit_trained, esd_cost

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
