"""The charts of a run: hits against queries, shares against threshold, what the map does."""

from collections.abc import Mapping
from typing import Any

from efface.report.chart import Chart, Line, chart
from efface.report.evidence import Evidence
from efface.report.words import count, percent, share

CONTROL = "seeds"
SMALL, HALF, WIDE = (180, 130), (260, 180), (520, 240)
"""Sizes in the drawing's units."""
FAR = 4
"""Norms shown, at most: text encoders give no longer rows."""


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


def strength_curve(found: Evidence) -> Chart | None:
    """Least certificate against drift as the patch goes from no strength to full."""
    at = [p for p in _measured(found, "strength") if None not in p.values()]
    if len(at) < 2 or not (most := max(p["drift"] for p in at)):
        return None
    told = "; ".join(
        f"at strength {p['strength']:g} certificate {count(p['certificate'])}, "
        f"drift {count(p['drift'])}"
        for p in at
    )
    line = Line("certificate", "ours", [(p["drift"], min(p["certificate"], 1.0)) for p in at])
    ticks = [0.0, round(most / 2, 3), round(most, 3)]
    title = "certificate against drift"
    return chart(title, told, "drift of kept words", [line], ticks, size=HALF, marks=True)


def recovery_curve(found: Evidence) -> Chart | None:
    """What stays lost of the concept's rows against the norm of what is fed in their place."""
    swept = sorted(_measured(found, "recovery"), key=lambda p: p["norm"])
    points = [(p["norm"], min(p["residual"], 1.0)) for p in swept if p["norm"] <= FAR]
    if len(points) < 2:
        return None
    real = max((p for p in points if p[0] <= 1), default=points[0])
    told = (
        f"At the norm of real text {percent(real[1])} of what the denoiser read stays lost; at "
        f"{points[-1][0]:.2g} times that norm, {percent(points[-1][1])}."
    )
    ticks = [0.0, 1.0, float(FAR)]
    line = Line("what stays lost", "ours", points)
    across = "norm, 1 is real text"
    return chart("recovery against norm", told, across, [line], ticks, size=HALF, marks=False)


def _measured(found: Evidence, what: str) -> list[dict[str, Any]]:
    """Points of a curve that the run holds; none in runs of earlier versions or other patches."""
    return list((found.patch.get("curves") or {}).get(what, ()))
