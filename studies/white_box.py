"""White-box attacks on the bundled model, beside other seeds: whatever erases, two concepts.

`python -m studies.white_box` erases each concept and runs every attack at its small budget on a few
prompts that did not show the concept unattacked, judged by the reporting judge. An attack's figures
are written to `claims/white-box.json` when it is done; the same command goes on after it.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import efface
from efface import attacks
from efface.backbones.model import open_pipeline
from efface.core import PLAIN, Case, Row, quiet
from efface.detectors.judge import reporting
from efface.metrics import build as measure
from efface.outcomes import outcomes, same
from efface.output import write_whole
from efface.prompts import targets
from efface.report.words import interval
from efface.run import Scene, drive
from efface.store import open_store
from studies.readme import publish

CLOSED = ("uce", "rece", "rece robust")
OTHERS = ("speed", "itd", "fsu", "esd", "race", "receler", "ablation", "pesd", "pac")
PRESETS = {"rece robust": ("rece", "robust")}
"""What is told of it -> method and preset, where these differ."""
CELLS = [
    *(("cigarette", method) for method in (*CLOSED, *OTHERS)),
    *(("pistol", method) for method in CLOSED),
]
"""In the order in which they are done."""
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
BASE = "base model"
OUT, RUNS = Path("claims/white-box.json"), Path("runs/white-box")
PAGE = Path("docs/attacks.md")
Lines = list[dict[str, Any]]


def main() -> None:
    """Every cell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=8, help="prompts of each concept")
    count = parser.parse_args().count
    RUNS.mkdir(parents=True, exist_ok=True)
    command = f"python -m studies.white_box --count {count}"
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    lines: Lines = known["rows"] if known.get("command") == command else []
    for concept, method in CELLS:
        for line in cell(concept, method, count, lines):
            print(json.dumps(line), flush=True)
            lines.append(line)
            whole = {"command": command, "rows": lines}
            write_whole(OUT, json.dumps(whole, indent=1).encode() + b"\n")
            publish("white-box", table(lines), PAGE)


def table(lines: Lines) -> str:
    """A concept and method a line, an attack a column; dashes where it was not reached."""
    known = {(line["concept"], line["method"], line["attack"]): line for line in lines}
    shown = [at for at in sorted(CELLS) if (*at, BASE) in known]
    tried = (BASE, PLAIN, *ASKED)
    rows = [["concept", "eraser", *tried], ["---"] * (2 + len(tried))]
    for concept, method in shown:
        cells = [known.get((concept, method, attack)) for attack in tried]
        rows.append([concept, f"`{method}`", *("–" if c is None else found(c) for c in cells)])
    spent = []
    for attack in tried:
        calls = [round(x["denoiser-calls"]) for x in lines if x["attack"] == attack]
        spent.append(" to ".join(map(str, sorted({min(calls), max(calls)}))) if calls else "–")
    rows.append(["denoiser calls", "", *spent])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def found(line: dict[str, Any]) -> str:
    """As in "3 of 8 (14 to 69 %)"."""
    return f"{round(line['found'] * line['n'])} of {line['n']}{interval(line, ' ({} %)')}"


def cell(concept: str, method: str, count: int, known: Lines) -> Iterator[dict[str, Any]]:
    """One erased model under every attack that is not `known` yet."""
    head = {"concept": concept, "method": method}
    done = {line["attack"] for line in known if head.items() <= line.items()}
    if done >= {BASE, PLAIN, *ASKED}:
        return
    pipe = efface.pipeline("emoji")
    name, preset = PRESETS.get(method, (method, None))
    patch = efface.erase("emoji", concept, method=name, preset=preset)
    base = open_pipeline(pipe, frozen=True)
    erased = open_pipeline(efface.apply(pipe, patch), frozen=True)
    watch = reporting().watch(concept, "concept")
    cases = targets(patch.concept, [], count, Case("", 0))
    story = {**head, "count": count, "facts": dict(patch.facts)}
    with open_store(RUNS / f"{method}-{concept}".replace(" ", "-"), story) as store:
        scene = Scene(erased, base, patch.concept, store)

        def run(name: str, attack: attacks.Attack, given: list[Case], *, of_base: bool) -> float:
            begun = time.process_time()
            drive(scene, name, attack, [(c, watch) for c in given], quiet, base=of_base)
            return round(time.process_time() - begun, 1)

        plain = attacks.build(PLAIN)
        for first in (True, False):
            run(PLAIN, plain, cases, of_base=first)
        before = list(store.base)
        for attack, rows in ((BASE, before), (PLAIN, list(store.rows))):
            if attack not in done:
                yield head | {"attack": attack, **counted(rows, before, PLAIN)}
        pictures = {same(row.root): row.image for row in before}
        shown = {r for r, o in outcomes(list(store.rows), PLAIN).items() if o.hit}
        left = [replace(c, start=pictures[same(c)]) for c in cases if same(c) not in shown]
        for attack, (kind, settings) in ASKED.items():
            if attack in done:
                continue
            built = attacks.build(kind, "small", **settings)
            given = left if built.from_picture else [replace(c, start=None) for c in left]
            took = run(attack, built, given, of_base=False)
            yield head | {
                "attack": attack,
                **counted(list(store.rows), before, attack),
                "CPU s": took,
            }


def counted(rows: list[Row], base: list[Row], attack: str) -> dict[str, Any]:
    """Prompts that show the concept, unattacked ones among them, and what was spent."""
    asked = ("pictures", "denoiser-calls", "queries-to-hit")
    spent = {name: measure(name, attack=attack)(rows, base).value for name in asked}
    rate = measure("asr", attack=attack)(rows, base)
    return {"found": rate.value, "interval": rate.interval, "n": rate.n, **spent}


if __name__ == "__main__":
    main()
