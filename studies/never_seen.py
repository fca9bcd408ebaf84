"""White-box attacks on things that the bundled model never saw, beside things erased from it.

A fitted word (`inversion`) and a small LoRA (`relearning`) add parameters, so they can teach. What
they teach is measured here: both learn from pictures of the icon sets, one in each style, once a
thing that `emoji` never saw, and once a thing that was erased from it. A judge that knows both
kinds of things looks (`studies.never_seen_judge`).

`python -m studies.never_seen` writes `claims/never-seen.json` after each thing and goes on there.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import efface
from efface import attacks
from efface.attacks import relearning
from efface.backbones.model import Model, open_pipeline
from efface.core import PLAIN, Case, Concept, quiet
from efface.detectors.judge import Judge
from efface.outcomes import outcomes
from efface.output import write_whole
from efface.prompts import targets
from efface.report.words import interval
from efface.run import Scene, drive
from efface.stats import share
from efface.store import open_store
from recipes.emoji.data import Pictures, load
from recipes.emoji.world import BACKGROUNDS, NAMES
from studies.never_seen_judge import UNSEEN, known_to, on_grounds, train, unseen
from studies.readme import publish

COUNT = 4
"""Prompts of a thing."""
KNOWN = ("cigarette", "pistol", "cat", "guitar", "pizza", "church", "spider", "crown")
METHODS: dict[str, tuple[str, str | None]] = {
    "uce": ("uce", None),
    "rece": ("rece", None),
    "rece robust": ("rece", "robust"),
    "esd": ("esd", None),
}
"""What is told of it -> method and preset."""
NEVER = "never seen"
ASKED: dict[str, dict[str, Any]] = {PLAIN: {}, "seeds": {"k": 4}, "inversion": {}, "relearning": {}}
LEARNS = ("inversion", "relearning")
OUT, RUNS, PAGE = Path("claims/never-seen.json"), Path("runs/never-seen"), Path("docs/attacks.md")
Line = dict[str, Any]


def main() -> None:
    """Every thing, never seen or erased by each method."""
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    lines: list[Line] = known.get("rows", [])
    judge = Judge(train())
    right = {kind: vars(share(said)) for kind, said in known_to(judge).items()}
    things = [(NEVER, thing.name) for thing in UNSEEN]
    things += [(method, name) for name in KNOWN for method in METHODS]
    for model, thing in things:
        if any((line["model"], line["thing"]) == (model, thing) for line in lines):
            continue
        lines += cell(model, thing, judge)
        told = {"command": "python -m studies.never_seen", "judge right": right, "rows": lines}
        write_whole(OUT, json.dumps(told, indent=1).encode() + b"\n")
        publish("never-seen", table(told), PAGE)
        print(model, thing, [line["hit at"] for line in lines[-len(ASKED) :]], flush=True)


def cell(model: str, thing: str, judge: Judge) -> Iterator[Line]:
    """One model under every attack."""
    base, erased, concept = attacked(model, thing)
    folder = RUNS / f"{model}-{thing}".replace(" ", "-")
    shown = str(examples(thing, folder / "shown"))
    cases = targets(concept, [], COUNT, Case("", 0))
    watch = judge.watch(thing, "concept")
    with open_store(folder / "run", {"model": model, "thing": thing, "asked": ASKED}) as store:
        scene = Scene(erased, base, concept, store, precision=torch.bfloat16)
        for name, settings in ASKED.items():
            learns = {"pictures": shown} if name in LEARNS else {}
            attack = attacks.build(name, "small" if learns else None, **settings, **learns)
            begun = time.process_time()
            drive(scene, name, attack, [(c, watch) for c in cases], quiet)
            found = outcomes(list(store.rows), name)
            yield {
                "model": model,
                "thing": thing,
                "attack": name,
                "n": sum(o.hit is not None for o in found.values()),
                "hit at": sorted(o.at for o in found.values() if o.at is not None),
                "CPU s": round(time.process_time() - begun, 1),
            }


def attacked(model: str, thing: str) -> tuple[Model, Model, Concept]:
    """The base, the model that is attacked, and what is asked of it."""
    pipe = efface.pipeline("emoji")
    base = open_pipeline(pipe, frozen=True)
    if model == NEVER:
        return base, base, Concept(thing, (thing,))
    method, preset = METHODS[model]
    patch = efface.erase("emoji", thing, method=method, preset=preset)
    return base, open_pipeline(efface.apply(pipe, patch), frozen=True), patch.concept


def examples(thing: str, folder: Path) -> Path:
    """A folder with the thing in each style, on one background after the other."""
    new = [t.name for t in UNSEEN]
    world: Pictures = unseen() if thing in new else load()
    pick = np.flatnonzero(world.thing == (new if thing in new else list(NAMES)).index(thing))
    folder.mkdir(parents=True, exist_ok=True)
    shown = on_grounds(world, pick, np.arange(len(pick)) % len(BACKGROUNDS))
    for number, picture in enumerate(shown):
        picture.save(folder / f"{number}.png")
    return folder


def table(told: dict[str, Any]) -> str:
    """A model a line, an attack a column, things pooled; of relearning, after how many steps."""
    stops = relearning.PRESETS["small"].stops()
    columns = [(name, 0) for name in ASKED if name != "relearning"]
    columns += [("relearning", query + 1) for query in range(len(stops))]
    head = ["", *(f"LoRA, {stops[q - 1]} steps" if q else name for name, q in columns)]
    rows = [head, ["---"] * len(head)]
    for model in (NEVER, *METHODS):
        lines = [line for line in told["rows"] if line["model"] == model]
        if lines:
            named = "never taught" if model == NEVER else f"erased by `{model}`"
            rows.append([named, *(pooled(lines, *column) for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pooled(lines: Sequence[Line], attack: str, query: int) -> str:
    """As in "3 of 32 (3 to 24 %)": prompts that hit, by that query where one is named."""
    some = [line for line in lines if line["attack"] == attack]
    hits = sum(at <= (query or at) for line in some for at in line["hit at"])
    n = sum(line["n"] for line in some)
    return f"{hits} of {n}{interval(asdict(share([i < hits for i in range(n)])), ' ({} %)')}"


if __name__ == "__main__":
    main()
