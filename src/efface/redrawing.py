"""What attacks that draw the base model's picture anew share: the start, and the queries."""

from collections.abc import Iterator
from dataclasses import replace

from efface.core import Case


def redrawn(case: Case, prompt: str | None) -> Case:
    """The case with its picture, asked for by `prompt`; None: by its own."""
    if case.start is None:
        raise ValueError("there is no picture of the base model to start from")
    return case if prompt is None else replace(case, prompt=prompt)


def downwards(most: float, least: float, step: float) -> Iterator[float]:
    """From the most to the least, which is among them where steps reach it."""
    return (round(most - i * step, 6) for i in range(round((most - least) / step) + 1))
