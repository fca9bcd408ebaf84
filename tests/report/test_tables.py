"""Markdown, CSV and JSON say what the page says, and hostile text stays text in each."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface.core import EffaceError
from efface.report.card import BEGIN, END, placed, section
from efface.report.evidence import gather
from efface.report.tables import as_csv, as_json, cell, markdown
from tests.report.folders import PATCH, write_run
from tests.report.test_page import HOSTILE

Cli = Callable[..., Any]
ATTACKED = (0.9, 0.9, *(0.2,) * 6)


def test_csv(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attacked=(None, *ATTACKED[1:]), concept="=1+1")
    rows = list(csv.DictReader(io.StringIO(as_csv([gather(run)] * 2))))
    assert len(rows) == 6
    assert rows[0]["erased"] == "'=1+1", "no formula in a spreadsheet"
    last = rows[2]
    assert last["attack"] == "synonyms"
    assert float(last["asr_value"]) == 1 / 8
    assert float(last["asr_low"]) == pytest.approx(0.0224, abs=1e-3)


def test_json(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attacked=ATTACKED)
    [told] = json.loads(as_json([gather(run)]))["runs"]
    assert told["worst_attack"] == "synonyms"
    assert told["attacks"][2]["asr"]["value"] == 2 / 8
    assert told["moved"][0]["n"] == 4
    assert len(told["hashes"]["rows.jsonl"]) == 64


def test_markdown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", attacked=ATTACKED, kept=(0.9, 0.1, 0.9), concept=HOSTILE)
    text = markdown([gather(run)])
    assert "| synonyms | 25 % (7 to 59) of 8 | +25 (0 to 62) |" in text
    assert "| tree | 95 % | 10 % | 0 of 1 |" in text
    assert "<script" not in text
    assert "<img" not in text


def test_cell_holds_no_markdown() -> None:
    assert cell("a|b\n<i> [x](y) `c` &") == "a\\|b &lt;i&gt; \\[x\\](y) \\`c\\` &amp;"


def test_stdout_and_endings(cli: Cli, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for ending in ("md", "csv", "json"):
        shown = cli("report", run, "--format", ending)
        assert shown.code == 0, shown.err
        assert cli("report", run, "-o", tmp_path / f"r.{ending}").code == 0
        assert (tmp_path / f"r.{ending}").read_text() == shown.out


def test_card_is_of_the_patch(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run", attacked=ATTACKED, concept=HOSTILE))
    text = section(found, PATCH, "0" * 64)
    assert "| synonyms | 25 % (7 to 59) of 8 |" in text
    assert "0.25, 0.5 (0 recoverable" in text
    assert "<script" not in text
    with pytest.raises(EffaceError, match="audited another patch"):
        section(found, PATCH, "1" * 64)


def test_card_replaces_its_section_only() -> None:
    card = "---\nlicense: mit\n---\n\n# Mine\n\nText.\n"
    first = placed(card, f"{BEGIN}\none\n{END}\n", "t")
    assert first.startswith(card)
    second = placed(first + "\nMore.\n", f"{BEGIN}\ntwo\n{END}\n", "t")
    assert second == first.replace("one", "two") + "\nMore.\n"
    assert placed(None, f"{BEGIN}\none\n{END}\n", "t").startswith("---\nlibrary_name: efface\n")
    for broken in (f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{END}"):
        with pytest.raises(EffaceError, match="remove them"):
            placed(broken, f"{BEGIN}{END}", "t")


def test_card_command(cli: Cli, audited: Path, tiny_patch: Path, tmp_path: Path) -> None:
    out = tmp_path / "README.md"
    assert cli("card", tiny_patch, audited, "-o", out).code == 0
    once = out.read_text()
    assert "## cat, erased" in once
    assert "| none |" in once
    assert cli("card", tiny_patch, audited, "-o", out).code == 0
    assert out.read_text() == once
    shown = cli("card", tiny_patch, audited)
    assert shown.out in once
    other = write_run(tmp_path / "other")
    assert "audited another patch" in cli("card", tiny_patch, other).err
