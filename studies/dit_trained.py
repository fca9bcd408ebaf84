"""Methods that rewrite or train the model, on the bundled transformer: `make dit-report`.

Of `emoji-dit`, which reads a T5, each erases a thing at its defaults; the reporting judge looks at
8 pictures of it and one of each of 24 others, before and after. A cell is one line of
`claims/dit-trained.jsonl`, written when it is done: the same command goes on after a kill, and
`--only METHOD` measures one, so that several machines, or several processes on one, share the work.
A method that refuses the model has its sentence as its cell.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import efface
from efface.core import Case, EffaceError
from efface.detectors.judge import reporting, tuning
from efface.erasers import build
from efface.rows import Rows
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share
from studies.methods_asked import OTHERS
from studies.readme import publish

OUT, PAGE = Path("claims/dit-trained.jsonl"), Path("docs/families.md")
MODEL, CONCEPT = "emoji-dit", "cigarette"
METHODS = ("esd", "race", "receler", "ablation", "pesd", "pac", "fsu", "conceptprune", "itd")
SEEDS = range(1000, 1008)
Cell = dict[str, Any]


def cell(word: str, method: str, settings: Cell, *, tuned: bool) -> Cell:
    """Fit, draw, judge; `tuned` asks the judge that settings may be chosen by."""
    begun = time.process_time()
    try:
        patch = efface.erase(MODEL, word, method=method, **settings)
    except EffaceError as refusal:
        return {"refused": str(refusal)}
    seconds = round(time.process_time() - begun, 1)
    base, judge = efface.pipeline(MODEL), (tuning if tuned else reporting)(MODEL)
    erased = efface.apply(base, patch)
    wanted = [(word, seed) for seed in SEEDS] + [(o, SEEDS[0]) for o in OTHERS if o != word]
    cases = [Case(f"a {name}", seed, STEPS, GUIDANCE) for name, seed in wanted]
    seen: Cell = {"CPU seconds": seconds, "bytes": len(patch.to_bytes())}
    for when, pipe in (("before", base), ("after", erased)):
        named = judge.names(draw_many(pipe, cases))
        hits = [name == n for n, (name, _) in zip(named, wanted, strict=True)]
        found, others = hits[: len(SEEDS)], hits[len(SEEDS) :]
        seen[when] = {"found": share(found), "others": share(others)}
    return seen | {"moved": patch.facts.get("moved")}


def table(cells: list[Cell]) -> str:
    """The newest cell of each method."""
    lines = ["| method | found before | after (95 %) | others before | after (95 %) | CPU s |"]
    lines.append("|---|---|---|---|---|---|")
    newest = {c["asked"]["method"]: c for c in cells}
    refusals = []
    for method in (m for m in METHODS if m in newest):
        told = newest[method]
        if "refused" in told:
            refusals.append(f"\n`{method}` is refused: {told['refused']}.")
            continue
        before, after = told["before"], told["after"]
        row = [
            f"`{method}`",
            *(percent(x[k]) for k in ("found", "others") for x in (before, after)),
        ]
        lines.append(f"| {' | '.join([*row, format(told['CPU seconds'], '.0f')])} |")
    return "\n".join([*lines, *refusals])


def percent(told: Cell) -> str:
    """A share with its interval and number."""
    low, high = told["interval"]
    return f"{100 * told['value']:.0f} % ({100 * low:.0f}–{100 * high:.0f}) of {told['n']}"


def main() -> None:
    """Every cell that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=METHODS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--word", default=CONCEPT)
    parser.add_argument("--tuning", action="store_true", help="ask the tuning judge, write nothing")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: json.loads(value) for name, value in (s.split("=", 1) for s in given.set)}
    rows = Rows(given.out.parent, given.out.stem)
    rows.mend()
    for method in (m for m in METHODS if given.only in (None, m)):
        asked = {
            "word": given.word,
            "method": method,
            "settings": vars(build(method, **settings)),
        }
        asked = json.loads(json.dumps(asked))
        if any(known["asked"] == asked for known in rows.told()) and not given.tuning:
            continue
        told = {"asked": asked, **cell(given.word, method, settings, tuned=given.tuning)}
        print(json.dumps(told), flush=True)
        if not given.tuning:
            rows.write([told])
    if given.out == OUT and rows.path.exists():
        publish("dit-trained", table(list(rows.told())), PAGE)


if __name__ == "__main__":
    main()
