"""Drawing for commands: the same prompts and seeds from the base model and from the erased one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from efface.cli import show
from efface.core import Case, OnStep
from efface.grid import Row, lay, png
from efface.patch import Patch

SHOWN = 4
"""Seeds drawn when a fit shows its effect."""


class Order(NamedTuple):
    """What to draw."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int = 20
    guidance: float = 5.0
    before: bool = False
    """Whether each prompt gets a row of the base model too."""


def rows(root: Path, patches: Sequence[Patch], order: Order, on_step: OnStep) -> list[Row]:
    """A row a prompt, or two: before and after the patches."""
    on_step("loading the model", 0, 1)
    show.quiet_drawing()
    from efface.backbones.pipeline import apply, draw, load_pipeline

    base = load_pipeline(str(root))
    erased = apply(base, *patches) if patches else base
    cases = [Case(p, s, order.steps, order.guidance) for p in order.prompts for s in order.seeds]
    drawn = {"before": draw(base, cases, on_step)} if order.before else {}
    drawn["after"] = draw(erased, cases, on_step)
    width = len(order.seeds)
    return [
        Row(f"{prompt}, {when}" if order.before else prompt, found[i * width : (i + 1) * width])
        for i, prompt in enumerate(order.prompts)
        for when, found in drawn.items()
    ]


def before_after(root: Path, patch: Patch, on_step: OnStep) -> bytes:
    """PNG of the first concept and the first kept phrase, before and after the patch."""
    prompts = [patch.concept.erase[0], *patch.concept.keep[:1]]
    found = rows(root, [patch], Order(prompts, range(SHOWN), before=True), on_step)
    return png(lay(found, [f"seed {s}" for s in range(SHOWN)]))
