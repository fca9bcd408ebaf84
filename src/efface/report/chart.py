"""Line charts as numbers for an inline SVG: the page styles them, so they follow dark and light."""

from collections.abc import Sequence
from typing import NamedTuple

LEFT, RIGHT, TOP, BOTTOM = 38, 10, 8, 34
"""Room for labels around the field, in the drawing's units."""


class Line(NamedTuple):
    """A named line; `band` is its interval at each point."""

    label: str
    style: str
    """CSS class: ours, control, base, erased or attacked."""
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()


class Drawn(NamedTuple):
    """A line in the drawing's units."""

    label: str
    style: str
    path: str
    band: str
    dots: list[tuple[float, float]]


class Chart(NamedTuple):
    """What the template draws; shares from 0 to 1 upwards."""

    title: str
    told: str
    """The chart in words, for those who cannot see it."""
    across: str
    width: int
    height: int
    ticks: list[tuple[float, str]]
    grid: list[tuple[float, str]]
    lines: list[Drawn]
    marks: bool


def chart(
    title: str,
    told: str,
    across: str,
    lines: Sequence[Line],
    ticks: Sequence[float],
    *,
    size: tuple[int, int],
    marks: bool,
) -> Chart:
    """Lay out lines over `ticks`, whose first and last are the field's ends; y is a share."""
    width, height = size
    low, high = ticks[0], ticks[-1]
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(LEFT + (value - low) / span * (width - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (1 - value) * (height - TOP - BOTTOM), 1)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + " L".join(f"{x(a)} {y(b)}" for a, b in points) if points else ""

    def drawn(line: Line) -> Drawn:
        ends = [(px, end) for (px, _), end in zip(line.points, line.band, strict=False)]
        upper = [(px, high) for px, (_, high) in ends]
        lower = [(px, low) for px, (low, _) in reversed(ends)]
        band = path([*upper, *lower]) + " Z" if len(ends) > 1 else ""
        dots = [(x(px), y(py)) for px, py in line.points]
        return Drawn(line.label, line.style, path(line.points), band, dots)

    return Chart(
        title,
        told,
        across,
        width,
        height,
        [(x(tick), f"{tick:g}") for tick in ticks],
        [(y(share), f"{100 * share:.0f} %") for share in (0.0, 0.5, 1.0)],
        [drawn(line) for line in lines],
        marks,
    )
