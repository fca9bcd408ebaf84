"""Erase a concept from the bundled model, draw the same seeds before and after, score both.

Run it with `make demo`, or `python examples/demo.py [CONCEPT]`.
"""

import sys
import time
from pathlib import Path

import diffusers
import transformers
from rich.console import Console
from rich.table import Table

import efface
from efface.detectors.judge import reporting
from efface.grid import Row, lay

SEEDS = range(6)
OTHERS = ("pistol", "dagger", "dog", "church", "pizza")


def main(concept: str) -> None:
    """Erase, draw, judge, show."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    out = Path("demo")
    out.mkdir(exist_ok=True)
    started = time.perf_counter()
    patch = efface.erase("emoji", concept)
    seconds = time.perf_counter() - started
    patch.save(out / f"no-{concept}.safetensors", force=True)

    prompts = [f"a {concept}", *(f"a {other}" for other in OTHERS if other != concept)]
    base = efface.pipeline("emoji")
    before = efface.draw(base, prompts, seeds=SEEDS)
    after = efface.draw(efface.apply(base, patch), prompts, seeds=SEEDS)

    judge = reporting()
    table = Table(
        "prompt", "found before", "found after", title=f"{concept}, erased in {seconds:.1f} s"
    )
    for i, prompt in enumerate(prompts):
        span = slice(i * len(SEEDS), (i + 1) * len(SEEDS))
        detect = judge.watch(prompt.removeprefix("a "))
        counts = [sum(bool(v.hit) for v in detect(drawn[span])) for drawn in (before, after)]
        table.add_row(prompt, *(f"{n} of {len(SEEDS)}" for n in counts))

    rows = [
        Row(f"{prompt}{label}", drawn[i * len(SEEDS) : (i + 1) * len(SEEDS)])
        for i, prompt in enumerate(prompts)
        for label, drawn in (("", before), (", erased", after))
    ]
    lay(rows).save(out / "grid.png")
    console = Console()
    console.print(table)
    console.print(f"pictures: {(out / 'grid.png').resolve()}", soft_wrap=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "cigarette")
