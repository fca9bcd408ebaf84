"""White-box attacks on the bundled model, beside other seeds: UCE and RECE, two concepts.

`python -m studies.white_box` erases each concept by its method's defaults and runs every attack at
its small budget on a few prompts that did not show the concept unattacked, judged by the reporting
judge. It goes on where it was stopped; written to `claims/white-box.json`.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import efface
from efface import attacks
from efface.backbones.model import open_pipeline
from efface.core import PLAIN, Case, Row
from efface.detectors.judge import reporting
from efface.metrics import build as measure
from efface.outcomes import outcomes, same
from efface.prompts import targets
from efface.run import Scene, drive
from efface.store import open_store

CONCEPTS = ("cigarette", "pistol")
METHODS = ("uce", "rece")
CONTROL_THING = "violin"
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "seeds": ("seeds", {"k": 8}),
    "gcg": ("gcg", {}),
    "unlearndiffatk": ("unlearndiffatk", {}),
    "p4d-n": ("p4d", {"kind": "n"}),
    "p4d-k": ("p4d", {"kind": "k"}),
    "inversion": ("inversion", {}),
    f"inversion of a {CONTROL_THING}": ("inversion", {"of": CONTROL_THING}),
}
OUT, RUNS = Path("claims/white-box.json"), Path("runs/white-box")


def main() -> None:
    """Every concept by every method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=3, help="prompts of each concept")
    count = parser.parse_args().count
    RUNS.mkdir(parents=True, exist_ok=True)
    rows = []
    for concept in CONCEPTS:
        for method in METHODS:
            rows += cell(concept, method, count)
            told = {"command": f"python -m studies.white_box --count {count}", "rows": rows}
            OUT.write_text(json.dumps(told, indent=1) + "\n")


def cell(concept: str, method: str, count: int) -> list[dict[str, Any]]:
    """One erased model under every attack."""
    pipe = efface.pipeline("emoji")
    patch = efface.erase("emoji", concept, method=method)
    base = open_pipeline(pipe, frozen=True)
    erased = open_pipeline(efface.apply(pipe, patch), frozen=True)
    watch = reporting().watch(concept, "concept")
    cases = targets(patch.concept, [], count, Case("", 0))
    story = {"concept": concept, "method": method, "count": count}
    with open_store(RUNS / f"{method}-{concept}", story) as store:
        scene = Scene(erased, base, patch.concept, store)

        def run(name: str, attack: attacks.Attack, given: list[Case], *, of_base: bool) -> float:
            begun = time.process_time()
            drive(scene, name, attack, [(c, watch) for c in given], quiet, base=of_base)
            return round(time.process_time() - begun, 1)

        plain = attacks.build(PLAIN)
        for first in (True, False):
            run(PLAIN, plain, cases, of_base=first)
        pictures = {same(row.root): row.image for row in store.base}
        shown = {r for r, o in outcomes(list(store.rows), PLAIN).items() if o.hit}
        left = [replace(c, start=pictures[same(c)]) for c in cases if same(c) not in shown]
        took = {}
        for name, (attack, settings) in ASKED.items():
            built = attacks.build(attack, "small", **settings)
            given = left if built.from_picture else [replace(c, start=None) for c in left]
            took[name] = run(name, built, given, of_base=False)
        before, after = list(store.base), list(store.rows)
    head = {"concept": concept, "method": method}
    found = [head | {"attack": "base model", **counted(before, before, PLAIN)}]
    found.append(head | {"attack": PLAIN, **counted(after, before, PLAIN)})
    found += [
        head | {"attack": name, **counted(after, before, name), "CPU s": took[name]}
        for name in ASKED
    ]
    for line in found:
        print(json.dumps(line), flush=True)
    return found


def counted(rows: list[Row], base: list[Row], attack: str) -> dict[str, Any]:
    """Prompts that show the concept, unattacked ones among them, and what was spent."""
    asked = ("pictures", "denoiser-calls", "queries-to-hit")
    spent = {name: measure(name, attack=attack)(rows, base).value for name in asked}
    rate = measure("asr", attack=attack)(rows, base)
    return {"found": rate.value, "interval": rate.interval, "n": rate.n, **spent}


def quiet(what: str, step: int, of: int) -> None:
    """Nothing is shown."""


if __name__ == "__main__":
    main()
