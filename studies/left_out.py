"""What an edit leaves that leaves something out: `make left-out-report`.

UCE's current code edits one row of a prompt, that of its last word, and only where cross-attention
reads it; its edits of SD 2 and SDXL are reported not to erase (its issues 33 and 35). Two things
that it leaves out are tried on the bundled model, which stands in for weights that cannot be had:

- the other rows: a denoiser reads all of them, and in a causal encoder those behind the word, end
  token and padding, know of it too. The edit is the preset `current-code`, which parity tests hold
  to the authors' functions;
- another way that text comes in, as SDXL's pooled vector and second encoder do. A model whose rows
  stand twice side by side and whose matrices are [W/2, W/2] is the same model; to edit the first
  half alone, W T/2 + W/2, is the edit at strength 1/2. So that is what is drawn.
"""

import json
from pathlib import Path
from typing import Any

import efface
from efface.core import Case
from efface.detectors.judge import reporting
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share

OUT = Path("claims/left-out.json")
THINGS = ("cat", "cigarette", "pizza", "guitar")
SEEDS = range(2000, 2008)
ARMS: dict[str, dict[str, Any]] = {
    "last word's row alone": {"method": "uce", "preset": "current-code"},
    "one of two ways in": {"method": "uce", "strength": 0.5},
    "all rows, every way in (UCE)": {"method": "uce"},
}


def main() -> None:
    """Draw every thing under every edit, and count in how many pictures the judge finds it."""
    pipe, judge = efface.pipeline("emoji"), reporting()
    found: dict[str, list[bool]] = {name: [] for name in ("no edit", *ARMS)}
    for thing in THINGS:
        cases = [Case(f"a {thing}", seed, STEPS, GUIDANCE) for seed in SEEDS]
        views = {"no edit": pipe} | {
            name: efface.apply(pipe, efface.erase("emoji", thing, **how))
            for name, how in ARMS.items()
        }
        for name, view in views.items():
            found[name] += [s == thing for s in judge.names(draw_many(view, cases))]
            print(thing, name, sum(found[name]), "of", len(found[name]), flush=True)
    report = {
        "command": "make left-out-report",
        "model": "emoji, one CLIP text encoder; it stands in for SD 2 and SDXL",
        "prompts": [f"a {thing}" for thing in THINGS],
        "found": {name: share(hits) for name, hits in found.items()},
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
