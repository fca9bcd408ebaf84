"""Numbers as a report says them; fractions become percent here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"
"""What stands where nothing was measured."""


def percent(value: float | None, *, signed: bool = False) -> str:
    """As in "7 %"; a dash for None."""
    if value is None:
        return NONE
    whole = round(100 * value)
    return f"{whole or 0:{'+' if signed else ''}d} %".replace("-", "−")


def interval(estimate: Mapping[str, Any], frame: str = "{}") -> str:
    """As in "7 to 59", in percent; empty where there is none."""
    if estimate["interval"] is None:
        return ""
    low, high = (f"{round(100 * end) or 0:d}".replace("-", "−") for end in estimate["interval"])
    return frame.format(f"{low} to {high}")


def share(estimate: Mapping[str, Any]) -> str:
    """As in "25 % (7 to 59) of 8, 1 not judged"."""
    if estimate["value"] is None:
        lost = estimate["skipped"]
        return f"{NONE} ({lost} not judged)" if lost else NONE
    lost = f", {estimate['skipped']} not judged" if estimate["skipped"] else ""
    return f"{percent(estimate['value'])}{interval(estimate, ' ({})')} of {estimate['n']}{lost}"


def points(estimate: Mapping[str, Any]) -> str:
    """A difference, as in "+12 (−5 to 30)", in percentage points."""
    if estimate["value"] is None:
        return NONE
    said = percent(estimate["value"], signed=True).removesuffix(" %")
    return f"{said}{interval(estimate, ' ({})')}"


def count(value: Any) -> str:
    """A number without needless digits; a dash for anything else."""
    if not isinstance(value, int | float):
        return NONE
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.3g}"


def setting(value: Any) -> str:
    """A setting's value in a line."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(inner)}" for name, inner in value.items()) or "defaults"
    if isinstance(value, Sequence) and not isinstance(value, str):
        some = ", ".join(setting(inner) or "(empty prompt)" for inner in value[:8])
        return some + (f" … {len(value)} in all" if len(value) > 8 else "") if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
