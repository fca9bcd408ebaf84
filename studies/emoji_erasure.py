"""UCE and RECE side by side on a bundled model: `make erasure-report`.

`--set reporting` (ten objects, two styles; six objects on the transformer `emoji-dit`) gives the
published figures, judged by the reporting judge; `--set tuning` other concepts, other seeds and the
tuning judge, and is where settings are chosen.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import efface
from efface.core import Case
from efface.detectors.judge import Judge, reporting, tuning
from recipes.emoji.report import GUIDANCE, PAGES, STEPS, draw_many, share
from studies.readme import publish

SETS: Mapping[str, dict[str, Any]] = {
    "reporting": {
        "objects": [
            "cigarette",
            "pistol",
            "cat",
            "church",
            "pizza",
            "guitar",
            "rocket",
            "wine glass",
            "spider",
            "crown",
        ],
        "styles": ["twitter", "blob"],
        "judge": reporting,
        "first seed": 1000,
    },
    "tuning": {
        "objects": ["dagger", "dog", "castle", "hamburger", "violin", "beer mug"],
        "styles": ["firefox", "noto", "fluent"],
        "judge": tuning,
        "first seed": 5000,
    },
}
FIRST = {"emoji-dit": 6}
"""Models that forget only so many objects of a set."""
THIN = {"emoji-dit": 4}
"""Models whose other pictures are of one thing in so many."""
SEEDS = 16
"""Pictures of each erased concept."""
OTHER_SEEDS = 1
"""Pictures of each other thing."""
SAID = ("a {} in {} style", "{1} style, a {0}")
"""How a style is said when it is looked for; the second is in no fit."""


class World:
    """The base model's pictures, drawn once."""

    def __init__(self, model: str, name: str) -> None:
        chosen = SETS[name]
        self.model = model
        self.judge: Judge = chosen["judge"](model)
        self.first = chosen["first seed"]
        self.pipe = efface.pipeline(model)
        self.things = [n for n in self.judge.groups["concept"] if n != "nothing"]
        self.styles = self.judge.groups["style"]
        self.thin = THIN.get(model, 1)
        self.base_right = self.right(self.pipe)
        self.base_styled = self.styled(self.pipe)

    def shows(self, pipe: Any, prompts: list[str], count: int, group: str) -> list[str]:
        """What the judge sees in `count` pictures of each prompt."""
        seeds = range(self.first, self.first + count)
        cases = [Case(p, s, STEPS, GUIDANCE) for p in prompts for s in seeds]
        return self.judge.names(draw_many(pipe, cases), group)

    def right(self, pipe: Any) -> dict[str, list[bool]]:
        """For many things, whether each of its pictures shows it."""
        things = self.things[:: self.thin]
        seen = self.shows(pipe, [f"a {n}" for n in things], OTHER_SEEDS, "concept")
        at = {n: seen[i * OTHER_SEEDS : (i + 1) * OTHER_SEEDS] for i, n in enumerate(things)}
        return {n: [s == n for s in found] for n, found in at.items()}

    def styled(self, pipe: Any) -> dict[str, dict[str, bool]]:
        """For every style, whether each of some things shows it when asked for."""
        things = self.things[3 :: 6 * self.thin]
        prompts = [SAID[0].format(t, s) for s in self.styles for t in things]
        seen = self.shows(pipe, prompts, 1, "style")
        at = {s: seen[i * len(things) : (i + 1) * len(things)] for i, s in enumerate(self.styles)}
        return {
            s: {t: x == s for t, x in zip(things, found, strict=True)} for s, found in at.items()
        }


def one(world: World, method: str, kind: str, name: str, **settings: Any) -> dict[str, Any]:
    """Erase one concept and count before and after."""
    phrase = name if kind == "concept" else f"{name} style"
    started = time.perf_counter()
    patch = efface.erase(world.model, phrase, method=method, **settings)
    seconds = time.perf_counter() - started
    erased = efface.apply(world.pipe, patch)
    if kind == "concept":
        prompts, count = [f"a {name}"], SEEDS
    else:
        prompts = [said.format(thing, name) for said in SAID for thing in world.things[::7]]
        count = 1
    before = [s == name for s in world.shows(world.pipe, prompts, count, kind)]
    after = [s == name for s in world.shows(erased, prompts, count, kind)]
    right = world.right(erased)
    styled = world.styled(erased)
    others = [n for n in right if n != name]
    return {
        "method": method,
        "erased": phrase,
        "before": share(before),
        "after": share(after),
        "others before": share([x for n in others for x in world.base_right[n]]),
        "others after": share([x for n in others for x in right[n]]),
        "styles before": share(untouched(world.base_styled, name)),
        "styles after": share(untouched(styled, name)),
        "toward": list(patch.concept.toward),
        "lost": {
            n: sum(world.base_right[n]) - sum(right[n])
            for n in others
            if sum(right[n]) < sum(world.base_right[n])
        },
        "facts": dict(patch.facts),
        "seconds": seconds,
    }


def untouched(styled: Mapping[str, Mapping[str, bool]], erased: str) -> list[bool]:
    """Whether pictures that are neither of the erased thing nor in the erased style show theirs."""
    return [
        right
        for style, things in styled.items()
        for thing, right in things.items()
        if erased not in (style, thing)
    ]


def rows(
    model: str, name: str, methods: list[str], only: str | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Every concept of a set by every method."""
    world, chosen = World(model, name), SETS[name]
    objects, styles = chosen["objects"], chosen["styles"]
    if model in FIRST:
        objects = objects[: FIRST[model]]
    targets = [("concept", n) for n in objects] + [("style", n) for n in styles]
    targets = [t for t in targets if only in (None, t[0])]
    return [one(world, m, kind, target, **settings) for kind, target in targets for m in methods]


def publish_rows(model: str, measured: list[dict[str, Any]]) -> None:
    """The claim and the table."""
    claim = {"command": "make erasure-report", "rows": measured}
    Path(f"claims/{model}-erasure.json").write_text(json.dumps(claim, indent=1) + "\n")
    publish("erasure-report", table(measured), PAGES[model])


def table(measured: list[dict[str, Any]]) -> str:
    """In Markdown."""
    return "\n".join([HEAD, *map(line, measured)])


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    change, styles = (
        100 * (row[f"{what} after"]["value"] - row[f"{what} before"]["value"])
        for what in ("others", "styles")
    )
    low, high = row["after"]["interval"]
    least = row["facts"]["certificate"]["min"]
    drift = row["facts"]["drift"]
    return (
        f"| {row['erased']} | {row['method']} | {100 * row['before']['value']:.0f} % | "
        f"{100 * row['after']['value']:.0f} % ({100 * low:.0f}–{100 * high:.0f}) | {change:+.1f} | "
        f"{styles:+.1f} | "
        f"{least:.2f} | {drift:.3f} | {row['seconds']:.2f} |"
    )


HEAD = (
    "| erased | method | found before | after (95 %) | others, points | styles, points "
    "| certificate | drift | s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(PAGES), metavar="MODEL")
    parser.add_argument("--set", choices=SETS, default="reporting")
    parser.add_argument("--only", choices=("concept", "style"), help="objects or styles alone")
    parser.add_argument("--methods", nargs="+", default=["uce", "rece"])
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="JSON of the method's settings"
    )
    options = parser.parse_args()
    for model in options.models:
        measured = rows(model, options.set, options.methods, options.only, **options.settings)
        print(model, table(measured), sep="\n")
        if options.set == "reporting" and not options.settings and options.only is None:
            publish_rows(model, measured)
