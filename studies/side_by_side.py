"""Methods side by side on the bundled model: found before and after, what else is still drawn.

`python -m studies.side_by_side NAME --methods fsu --settings '{"keep_weight": 0}'`. `--set tuning`
(dagger, castle, dog; the tuning judge, its own seeds) is where settings are chosen; `--set
reporting` gives figures, by the reporting judge, and is written to `claims/NAME.json`.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import efface
from efface.core import Case
from efface.detectors.judge import reporting, tuning
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share

SETS: Mapping[str, dict[str, Any]] = {
    "tuning": {
        "objects": ["dagger", "castle", "dog"],
        "judge": tuning,
        "first seed": 5000,
    },
    "reporting": {
        "objects": ["cat", "pistol", "church", "pizza", "guitar", "spider"],
        "judge": reporting,
        "first seed": 1000,
    },
}
NEAR = {
    "dagger": "axe",
    "castle": "church",
    "dog": "wolf",
    "cat": "dog",
    "pistol": "bomb",
    "church": "castle",
    "pizza": "hamburger",
    "guitar": "violin",
    "spider": "bee",
}
"""A near neighbour of each, found or not."""
SEEDS = 16
"""Pictures of each erased thing, and of its neighbour."""


class World:
    """The base model's pictures, drawn once."""

    def __init__(self, name: str, every: int) -> None:
        chosen = SETS[name]
        self.judge, self.first = chosen["judge"](), chosen["first seed"]
        self.pipe = efface.pipeline("emoji")
        self.things = [n for n in self.judge.groups["concept"] if n != "nothing"][::every]
        self.base = self.right(self.pipe)
        self.known: dict[str, list[bool]] = {}

    def found(self, pipe: Any, thing: str) -> list[bool]:
        """Whether each picture of a thing shows it."""
        cases = [Case(f"a {thing}", self.first + i, STEPS, GUIDANCE) for i in range(SEEDS)]
        return [n == thing for n in self.judge.names(draw_many(pipe, cases))]

    def before(self, thing: str) -> list[bool]:
        """The same of the base, once."""
        if thing not in self.known:
            self.known[thing] = self.found(self.pipe, thing)
        return self.known[thing]

    def right(self, pipe: Any) -> dict[str, bool]:
        """For every other thing, whether its picture shows it."""
        cases = [Case(f"a {n}", self.first, STEPS, GUIDANCE) for n in self.things]
        seen = self.judge.names(draw_many(pipe, cases))
        return {n: s == n for n, s in zip(self.things, seen, strict=True)}


def one(world: World, method: str, thing: str, **settings: Any) -> dict[str, Any]:
    """Erase one thing and count."""
    wall, cpu = time.perf_counter(), time.process_time()
    patch = efface.erase("emoji", thing, method=method, **settings)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    erased = efface.apply(world.pipe, patch)
    others = [n for n in world.things if n != thing]
    right = world.right(erased)
    return {
        "method": method,
        "settings": settings,
        "erased": thing,
        "before": share(world.before(thing)),
        "after": share(world.found(erased, thing)),
        "near": NEAR[thing],
        "near before": share(world.before(NEAR[thing])),
        "near after": share(world.found(erased, NEAR[thing])),
        "others before": share([world.base[n] for n in others]),
        "others after": share([right[n] for n in others]),
        "facts": {
            k: v for k, v in patch.facts.items() if k in ("steps", "moved", "zeros", "drift")
        },
        "seconds": round(wall, 2),
        "CPU seconds": round(cpu, 2),
        "bytes": len(patch.to_bytes()),
    }


HEAD = (
    "| erased | method | found before | after (95 %) | near neighbour, before → after "
    "| others, before → after (n) | CPU s | patch |\n|---|---|---|---|---|---|---|---|"
)


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    low, high = row["after"]["interval"]

    def percent(key: str) -> str:
        return f"{100 * row[key]['value']:.0f} %"

    return (
        f"| {row['erased']} | {row['label']} | {percent('before')} | {percent('after')} "
        f"({100 * low:.0f}–{100 * high:.0f}) | {row['near']}: {percent('near before')} → "
        f"{percent('near after')} | {percent('others before')} → {percent('others after')} "
        f"({row['others after']['n']}) | {row['CPU seconds']:.1f} | {row['bytes'] / 1e6:.2f} MB |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the claims file")
    parser.add_argument("--set", choices=SETS, default="reporting")
    parser.add_argument("--every", type=int, default=2, help="count every such other thing")
    parser.add_argument("--only", nargs="+", help="these things alone")
    parser.add_argument(
        "--runs",
        type=json.loads,
        required=True,
        help='JSON: label -> {"method": ..., settings}',
    )
    options = parser.parse_args()
    world, rows = World(options.set, options.every), []
    print(HEAD, flush=True)
    for thing in options.only or SETS[options.set]["objects"]:
        for label, told in options.runs.items():
            rows.append({"label": label, **one(world, thing=thing, **told)})
            print(line(rows[-1]), json.dumps(rows[-1]["facts"]), flush=True)
    if options.set == "reporting":
        command = (
            f"python -m studies.side_by_side {options.name} --every {options.every} "
            f"--runs '{json.dumps(options.runs)}'"
        )
        Path(f"claims/{options.name}.json").write_text(
            json.dumps({"command": command, "rows": rows}, indent=1) + "\n"
        )
