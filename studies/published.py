"""What papers report, beside what we measured: `claims/published/*.json` in docs/published.md.

python -m studies.published
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.readme import publish

ROOT = Path(__file__).parents[1]
CLAIMS, PAGE = ROOT / "claims/published", ROOT / "docs/published.md"
Told = Mapping[str, Any]


def records() -> list[Told]:
    """Every paper's figures, by file name."""
    return [json.loads(path.read_text()) for path in sorted(CLAIMS.glob("*.json"))]


def tables(papers: Sequence[Told]) -> str:
    """Every paper's tables."""
    return "\n".join(_paper(each) for each in papers).rstrip()


def _paper(told: Told) -> str:
    cited = f" (arXiv:{told['arxiv']})" if told["arxiv"] else ""
    runs = ", ".join(f"`studies/{name}.toml`" for name in told["protocol"])
    notes = "" if told["read"] == "by us" else ", as our notes have it"
    by = f" Protocol: {runs}." if runs else ""
    parts = [
        f"## {told['paper']}{cited}\n",
        f"{told['caution']} Source: {told['source']}{notes}.{by}\n",
    ]
    by_table: dict[str, list[Told]] = {}
    for figure in told["figures"]:
        by_table.setdefault(figure["table"], []).append(figure)
    return "\n".join([*parts, *(_table(name, figures) for name, figures in by_table.items())])


def _table(title: str, figures: Sequence[Told]) -> str:
    """Methods by columns; of a figure named "method, column" the comma parts them."""
    cells, columns = dict[str, dict[str, str]](), dict[str, None]()
    for figure in figures:
        method, _, column = figure["what"].partition(", ")
        column = f"{column} ({figure['unit']})" if column else figure["unit"]
        columns[column] = None
        cells.setdefault(method, {})[column] = _cell(figure)
    rows = [
        [title, *columns],
        ["---"] * (1 + len(columns)),
        *([method, *(found.get(c, "–") for c in columns)] for method, found in cells.items()),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(figure: Told) -> str:
    reported = f"{figure['reported']:g}"
    if figure["measured"] is None:
        return reported
    value, (low, high), n = (figure["measured"][key] for key in ("value", "interval", "n"))
    return f"{reported} **{value:g} ({low:g} to {high:g}) of {n}**"


if __name__ == "__main__":
    publish("published", tables(records()), PAGE)
