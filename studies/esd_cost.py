"""ESD against a literal transcription of its authors' first loop: `make esd-cost`.

Cost is rows through the U-Net: one latent at one time under one prompt, forward, whatever the
batch. Both train cross-attention on the bundled model at one rate, with η = 1, guidance 3 and
drawings of 20 steps, one example an update, and neither holds other prompts; all else of ours is
the default. Ours counts all it does: drawing, training, and measuring what moved. What is found, by
the reporting judge in 8 pictures, is looked at as training goes; equal erasure is the first look at
which none is found. The transcription is ours, from the description of the method and of the order
of its loop; no code is theirs. A fit with every setting at its default is counted too.
"""

import argparse
import copy
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

import efface
from efface.backbones.model import open_pipeline
from efface.core import Case, Concept
from efface.detectors.judge import Judge, reporting
from efface.erasers import build
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share
from studies.readme import publish

OUT = Path("claims/esd-cost.json")
PAGE = Path("docs/esd.md")
CONCEPTS = ("cigarette", "church")
RATES = {5e-5: (0,), 2e-4: (0, 1, 2)}
"""The authors' rate today and ours, each with the seeds of training."""
ETA, CFG = 1.0, 3.0
LOOKS = (5, 10, 20, 40, 80, 160)
"""Updates after which pictures are drawn."""
SEEDS = range(1000, 1008)
KEYS = ("concept", "rate", "seed", "loop")


class Counter:
    """Rows that went through modules, by what a fit says it is at."""

    def __init__(self, *modules: nn.Module) -> None:
        self.by = dict.fromkeys(("drawing the concept", "drawing kept", "training", "measuring"), 0)
        self._at, self._drawn = "training", iter(self.by)
        for module in modules:
            module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.by[self._at] += len(args[0])

    def __call__(self, what: str, step: int, of: int) -> None:
        """What a fit says it is at: drawings of the concept come before those of what is kept."""
        if what == "drawing":
            self._at = next(self._drawn) if step == 0 else self._at
        else:
            self._at = "measuring" if step == of else "training"


def literal(
    pipe: Any,
    prompt: str,
    steps: int,
    rate: float,
    seed: int,
    look: Callable[[int, Any, dict[str, int]], bool],
) -> None:
    """One example an update: draw with the edited model to a random step, then regress.

    `look` is told updates, the edited U-Net and rows so far; true ends the loop.
    """
    rng = Generator().manual_seed(seed)
    frozen, edited = pipe.unet, copy.deepcopy(pipe.unet)
    counter = Counter(frozen, edited)
    for name, parameter in edited.named_parameters():
        parameter.requires_grad_("attn2" in name)
    optimiser = torch.optim.Adam([p for p in edited.parameters() if p.requires_grad], lr=rate)
    encode = open_pipeline(pipe).encode
    words, nothing = encode([prompt]).states, encode([""]).states
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(STEPS)
    for update in range(1, steps + 1):
        remaining = int(torch.randint(STEPS, (1,), generator=rng))
        low, high = (int(k / STEPS * 1000) for k in (remaining, remaining + 1))
        time_ = int(torch.randint(low, high, (1,), generator=rng))
        latents = torch.randn(1, 8, 8, 8, generator=rng)
        with torch.no_grad():
            for step in scheduler.timesteps[: STEPS - remaining]:
                away = edited(latents, step, nothing).sample
                ahead = edited(latents, step, words).sample
                guided = away + CFG * (ahead - away)
                latents = scheduler.step(guided, step, latents).prev_sample
            away = frozen(latents, time_, nothing).sample
            ahead = frozen(latents, time_, words).sample
        goal = away - ETA * (ahead - away)
        loss = (edited(latents, time_, words).sample - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        spent = dict(counter.by)
        if update in LOOKS and look(update, edited, spent):
            return
        counter.by = spent  # looking is no part of the cost


def ours(pipe: Any, word: str, seed: int, **settings: Any) -> tuple[Any, dict[str, int], float]:
    """The erased pipeline, rows, CPU seconds; nothing from earlier drawings."""
    with tempfile.TemporaryDirectory() as empty:
        os.environ["EFFACE_CACHE"] = empty
        model = open_pipeline(pipe)
        counter = Counter(model.denoiser().module)
        begun = time.process_time()
        concept = Concept(word, (word,), keep=tuple(w for w in model.vocabulary if w != word))
        patch = build("esd", **settings).fit(model, concept, Generator().manual_seed(seed), counter)
        return efface.apply(pipe, patch), counter.by, time.process_time() - begun


def found(pipe: Any, judge: Judge, word: str) -> list[bool]:
    """Whether each picture shows it."""
    pictures = draw_many(pipe, [Case(f"a {word}", s, STEPS, GUIDANCE) for s in SEEDS])
    return [name == word for name in judge.names(pictures)]


def by_literal(word: str, rate: float, seed: int) -> list[dict[str, Any]]:
    """The transcription's looks, until nothing is found."""
    pipe, judge, looks = efface.pipeline("emoji"), reporting(), list[dict[str, Any]]()
    begun, spent = time.process_time(), 0.0

    def look(update: int, unet: Any, rows: dict[str, int]) -> bool:
        nonlocal spent
        seconds = time.process_time() - begun - spent
        view = copy.copy(pipe)
        view.unet = unet
        seen = found(view, judge, word)
        spent = time.process_time() - begun - seconds
        looks.append(row(update, sum(rows.values()), seconds, seen))
        return not any(seen)

    literal(pipe, word, max(LOOKS), rate, seed, look)
    return looks


def by_ours(word: str, rate: float, seed: int) -> list[dict[str, Any]]:
    """Ours, trained anew for every look."""
    pipe, judge, looks = efface.pipeline("emoji"), reporting(), list[dict[str, Any]]()
    for steps in LOOKS:
        erased, rows, seconds = ours(
            pipe, word, seed, steps=steps, rate=rate, batch=1, keep_weight=0.0
        )
        seen = found(erased, judge, word)
        looks.append(row(steps, sum(rows.values()), seconds, seen) | {"rows by purpose": rows})
        if not any(seen):
            break
    return looks


def row(updates: int, rows: int, seconds: float, seen: list[bool]) -> dict[str, Any]:
    """One look."""
    told = {"updates": updates, "rows": rows, "cpu seconds": round(seconds, 1)}
    print(told, sum(seen), flush=True)
    return told | {"found": share(seen)}


def at_defaults(word: str) -> dict[str, Any]:
    """A fit with nothing set, and the rows that the literal loop takes for as many examples."""
    pipe, default = efface.pipeline("emoji"), vars(build("esd"))
    erased, rows, seconds = ours(pipe, word, 0)
    examples = default["steps"] * default["batch"]
    a_draw = (STEPS + 1) / 2  # steps, on average, two rows each
    told = row(default["steps"], sum(rows.values()), seconds, found(erased, reporting(), word))
    return told | {
        "concept": word,
        "rows by purpose": rows,
        "examples": examples,
        "literal rows for as many examples": examples * (2 * a_draw + 3),
    }


LOOPS = {"literal": by_literal, "ours": by_ours}
Told = dict[str, Any]


def record(report: Told) -> None:
    """Write the report, and its table into the page."""
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    publish("esd-cost", table(report), PAGE)


def table(report: Told) -> str:
    """Both loops' first looks at which nothing is found, and all runs of a rate together."""
    lines = ["| concept | rate | seed | literal, updates: rows | ours, updates: rows | fewer |"]
    lines.append("|---|---|---|---|---|---|")
    rows = {tuple(t[k] for k in KEYS): t["looks"][-1] for t in report["runs"]}
    for rate, seeds in RATES.items():
        one = other = 0
        for word, seed in itertools.product(CONCEPTS, seeds):
            literal, ours = (rows.get((word, rate, seed, loop)) for loop in LOOPS)
            if literal and ours:
                told = " | ".join(f"{end['updates']}: {end['rows']}" for end in (literal, ours))
                lines.append(f"| {word} | {rate:g} | {seed} | {told} | {fewer(literal, ours)} |")
                one, other = one + literal["rows"], other + ours["rows"]
        if other:
            both = fewer({"rows": one}, {"rows": other})
            lines.append(f"| all of these | {rate:g} | | {one} | {other} | {both} |")
    return "\n".join(lines)


def fewer(literal: Told, ours: Told) -> str:
    """How many times."""
    return f"{literal['rows'] / ours['rows']:.1f} times"


def main() -> None:
    """What is not in the report yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CONCEPTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: Told = json.loads(OUT.read_text()) if OUT.exists() else {"runs": []}
    report |= {
        "command": "make esd-cost",
        "efface": efface.__version__,
        "eta": ETA,
        "drawing steps": STEPS,
        "drawing guidance": CFG,
    }
    done = [[t[k] for k in KEYS] for t in report["runs"]]
    for word in (c for c in CONCEPTS if given.only in (None, c)):
        for rate, seeds in RATES.items():
            for seed, loop in itertools.product(seeds, LOOPS):
                key = [word, rate, seed, loop]
                if key not in done:
                    print(*key, flush=True)
                    looks = LOOPS[loop](word, rate, seed)
                    report["runs"].append(dict(zip(KEYS, key, strict=True)) | {"looks": looks})
                    record(report)
    if given.only in (None, CONCEPTS[0]) and "at defaults" not in report:
        report["at defaults"] = at_defaults(CONCEPTS[0])
    record(report)


if __name__ == "__main__":
    main()
