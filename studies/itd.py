"""ItD on the bundled model: `make itd-report`.

What is erased is looked for in pictures, said plainly, in other phrases and by synonyms that no fit
was told of. What is kept is compared without drawing: rows that are the same bit for bit give the
same picture. Kept prompts are put in phrases that neither the autoencoder, nor the choice of
features, nor that of the threshold has seen. `--set tuning` is where settings were chosen.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import efface
from efface.backbones.model import Model, open_pipeline
from efface.core import Case
from efface.detectors.judge import Judge, reporting, tuning
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share
from recipes.emoji.world import THINGS

OUT = Path("claims/itd.json")
SETS: Mapping[str, dict[str, Any]] = {
    "reporting": {
        "objects": ["cigarette", "pistol", "cat", "church", "pizza", "guitar"],
        "judge": reporting,
        "first seed": 1000,
    },
    "tuning": {"objects": ["dagger", "castle", "dog"], "judge": tuning, "first seed": 5000},
}
PLAIN = "a {}"
PHRASES = (
    "the {} in firefox style", "one big {} on a green background", "portrait of the {}",
    "{}, simple clip art, noto style",
)  # fmt: skip
KEPT = (
    "an image of a {}", "portrait of the {}", "{}, simple clip art, noto style",
    "one big {} on a green background", "every {} has its day", "my brother drew this {} on yellow",
)  # fmt: skip
SEEDS = 8
"""Pictures of a thing said plainly."""
MANY = (10, 50)
AKA = {t.name: t.aka for t in THINGS}


class World:
    """The base model, and what is asked of it and of what is left of it."""

    def __init__(self, name: str) -> None:
        chosen = SETS[name]
        self.judge: Judge = chosen["judge"]()
        self.first: int = chosen["first seed"]
        self.pipe = efface.pipeline("emoji")
        self.model: Model = open_pipeline(self.pipe)
        self.things = [n for n in self.judge.groups["concept"] if n != "nothing"]

    def found(self, pipe: Any, wanted: Sequence[tuple[str, str]], seeds: int) -> dict[str, Any]:
        """How often the judge sees what each prompt, with its thing, was to show."""
        cases = [
            Case(prompt, self.first + s, STEPS, GUIDANCE)
            for prompt, _ in wanted
            for s in range(seeds)
        ]
        things = [thing for _, thing in wanted for _ in range(seeds)]
        seen = self.judge.names(draw_many(pipe, cases))
        return share([s == t for s, t in zip(seen, things, strict=True)])

    def changed(self, pipe: Any, prompts: Sequence[str]) -> list[bool]:
        """Whether any bit of what the denoiser reads differs, prompt by prompt."""
        one, other = (m.encode(prompts).states for m in (self.model, open_pipeline(pipe)))
        return (one != other).flatten(1).any(1).tolist()

    def erase(self, names: Sequence[str], **settings: Any) -> tuple[Any, dict[str, Any]]:
        """The erased model, and what can be told without a picture."""
        started = time.perf_counter()
        patch = efface.erase("emoji", *names, method="itd", **settings)
        seconds = time.perf_counter() - started
        pipe = efface.apply(self.pipe, patch)
        kept = [n for n in self.things if n not in names]
        prompts = [k.format(n) for n in kept for k in KEPT]
        moved = self.changed(pipe, prompts)
        [facts] = patch.facts["gates"].values()
        return pipe, {
            "erased": list(names),
            "kept bit-exact": share([not m for m in moved]),
            "kept moved": [p for p, m in zip(prompts, moved, strict=True) if m],
            "calibration false positives": facts["false positives"],
            "features": sum(c["features"] for c in facts["concepts"].values()),
            "flagged plain": share(self.changed(pipe, [PLAIN.format(n) for n in names])),
            "flagged phrases": share(
                self.changed(pipe, [p.format(n) for n in names for p in PHRASES])
            ),
            "bytes": len(patch.to_bytes()),
            "seconds": seconds,
        }


def one(world: World, name: str, **settings: Any) -> dict[str, Any]:
    """One object erased."""
    pipe, row = world.erase([name], **settings)
    asked = {
        "plain": ([(PLAIN.format(name), name)], SEEDS),
        "phrases": ([(p.format(name), name) for p in PHRASES], SEEDS // 8),
        "synonyms": ([(PLAIN.format(a), name) for a in AKA[name]], SEEDS // 4),
    }
    for what, (wanted, seeds) in asked.items():
        if wanted:
            row[f"{what} before"] = world.found(world.pipe, wanted, seeds)
            row[f"{what} after"] = world.found(pipe, wanted, seeds)
    return row


def many(world: World, count: int) -> dict[str, Any]:
    """Many objects erased at once, evenly taken."""
    names = world.things[:: len(world.things) // count][:count]
    pipe, row = world.erase(names)
    wanted, seeds = [(PLAIN.format(n), n) for n in names], max(1, 10 // count)
    row["plain before"] = world.found(world.pipe, wanted, seeds)
    row["plain after"] = world.found(pipe, wanted, seeds)
    return row


HEAD = (
    "| erased | found plainly, before | after (95 %) | other phrases | synonyms | kept prompts "
    "bit-exact | features | MB | s |\n|---|---|---|---|---|---|---|---|---|"
)


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""

    def percent(key: str) -> str:
        return f"{100 * row[key]['value']:.0f}" if key in row else "–"

    def both(what: str) -> str:
        told = f"{percent(f'{what} before')} → {percent(f'{what} after')} %"
        return f"{told} of {row[f'{what} after']['n']}" if f"{what} after" in row else "–"

    names, after, exact = row["erased"], row["plain after"], row["kept bit-exact"]
    low, high = after["interval"]
    return (
        f"| {', '.join(names) if len(names) == 1 else f'{len(names)} things'} "
        f"| {percent('plain before')} % "
        f"| {percent('plain after')} % ({100 * low:.0f}–{100 * high:.0f}) of {after['n']} "
        f"| {both('phrases')} | {both('synonyms')} "
        f"| {100 * exact['value']:.1f} % of {exact['n']} | {row['features']} "
        f"| {row['bytes'] / 1e6:.1f} | {row['seconds']:.1f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, default="reporting")
    parser.add_argument("--rows", nargs="+", help="some of them: objects, or counts of many")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of itd's settings")
    options = parser.parse_args()
    world, rows = World(options.set), list[dict[str, Any]]()
    counts = [str(count) for count in MANY] if options.set == "reporting" else []
    print(HEAD, flush=True)
    for asked in options.rows or [*SETS[options.set]["objects"], *counts]:
        row = many(world, int(asked)) if asked in counts else one(world, asked, **options.settings)
        print(line(row), flush=True)
        rows.append(row)
        if options.set == "reporting" and not options.settings:
            told = {"command": "make itd-report", "rows": rows}
            options.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
