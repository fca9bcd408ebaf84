"""The charts of a run: hits against queries beside the control, and shares against threshold."""

from collections.abc import Mapping
from typing import Any

from efface.report.chart import Chart, Line, chart
from efface.report.evidence import Evidence
from efface.report.words import percent, share

CONTROL = "seeds"
SMALL, WIDE = (180, 130), (520, 240)
"""Sizes in the drawing's units."""


def query_curves(found: Evidence) -> list[Chart]:
    """One chart an attack: share of prompts hit within so many queries, from unattacked at 0."""
    lines = [line for line in found.table["attacks"] if line["curve"]]
    control = next((line for line in lines if line["attack"] == CONTROL), None)
    most = max((line["curve"][-1]["queries"] for line in lines), default=1)
    ticks = [float(t) for t in sorted({0, *([most // 2] if most > 3 else []), most})]
    charts = []
    for line in lines:
        if line["attack"] == "none":
            continue
        drawn = [_line(line, line["attack"], "ours")]
        if control is not None and line is not control:
            drawn.insert(0, _line(control, "other seeds", "control"))
        last = line["curve"][-1]
        told = f"{line['attack']}: {share(last)} prompts hit within {last['queries']} queries"
        if control is not None and line is not control:
            told += f"; other seeds: {percent(control['curve'][-1]['value'])}"
        charts.append(chart(line["attack"], told, "queries", drawn, ticks, size=SMALL, marks=True))
    return charts


def _line(line: Mapping[str, Any], label: str, style: str) -> Line:
    before = {"queries": 0, **line["pre-asr"]}
    at = [point for point in (before, *line["curve"]) if point["value"] is not None]
    points = [(float(point["queries"]), float(point["value"])) for point in at]
    bands = [point["interval"] or (point["value"], point["value"]) for point in at]
    return Line(label, style, points, [(low, high) for low, high in bands])


def threshold_curve(found: Evidence) -> Chart | None:
    """Share of the concept's prompts that reach each score; None where no score was kept."""
    at, base, erased, attacked, n = found.threshold
    if not n:
        return None
    middle = len(at) // 2
    told = (
        f"Of {n} prompts, at score {at[middle]:.2g} or more: base {percent(base[middle])}, erased "
        f"{percent(erased[middle])}, erased and attacked {percent(attacked[middle])}."
    )
    lines = [
        Line("base model", "base", list(zip(at, base, strict=True))),
        Line("erased, attacked", "attacked", list(zip(at, attacked, strict=True))),
        Line("erased", "erased", list(zip(at, erased, strict=True))),
    ]
    ticks = [round(at[i], 3) for i in (0, middle, -1)]
    return chart("threshold", told, "judge's score", lines, ticks, size=WIDE, marks=False)
