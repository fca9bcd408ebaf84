"""ESD against a literal transcription of its authors' first loop: `make esd-cost`.

Cost is rows through the U-Net: one latent at one time under one prompt, forward, whatever the
batch. Both train cross-attention on the bundled model at one rate, with η = 1, guidance 3 and
drawings of 20 steps, one example an update, and neither holds other prompts. Ours counts all it
does: drawing, training, and measuring what moved. What is found, by the reporting judge in 8
pictures, is looked at as training goes; equal erasure is the first look at which none is found. The
transcription is ours, from the description of the method and of the order of its loop; no code is
theirs.
"""

import argparse
import copy
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

OUT = Path("claims/esd-cost.json")
CONCEPTS = ("cigarette", "church")
RATE, ETA, CFG = 5e-5, 1.0, 3.0
"""The authors' rate today."""
LOOKS = (10, 20, 40, 80, 160)
"""Updates after which pictures are drawn."""
SEEDS = range(1000, 1008)


class Counter:
    """Rows that went through modules."""

    def __init__(self, *modules: nn.Module) -> None:
        self.rows = 0
        for module in modules:
            module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.rows += len(args[0])


def literal(pipe: Any, prompt: str, steps: int, look: Callable[[int, Any, int], bool]) -> None:
    """One example an update: draw with the edited model to a random step, then regress.

    `look` is told updates, the edited U-Net and rows so far; true ends the loop.
    """
    rng = Generator().manual_seed(0)
    frozen, edited = pipe.unet, copy.deepcopy(pipe.unet)
    counter = Counter(frozen, edited)
    for name, parameter in edited.named_parameters():
        parameter.requires_grad_("attn2" in name)
    optimiser = torch.optim.Adam([p for p in edited.parameters() if p.requires_grad], lr=RATE)
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
        rows = counter.rows
        if update in LOOKS and look(update, edited, rows):
            return
        counter.rows = rows  # looking is no part of the cost


def ours(pipe: Any, word: str, steps: int) -> tuple[Any, int, float]:
    """The erased pipeline, rows, CPU seconds; nothing from earlier drawings."""
    with tempfile.TemporaryDirectory() as empty:
        os.environ["EFFACE_CACHE"] = empty
        model = open_pipeline(pipe)
        counter = Counter(model.denoiser().module)
        begun = time.process_time()
        concept = Concept(word, (word,), keep=tuple(w for w in model.vocabulary if w != word))
        eraser = build(
            "esd", steps=steps, rate=RATE, batch=1, drawings=2, keep_weight=0.0, keep_drawings=1
        )
        patch = eraser.fit(model, concept, Generator().manual_seed(0), lambda *_: None)
        return efface.apply(pipe, patch), counter.rows, time.process_time() - begun


def found(pipe: Any, judge: Judge, word: str) -> list[bool]:
    """Whether each picture shows it."""
    pictures = draw_many(pipe, [Case(f"a {word}", s, STEPS, GUIDANCE) for s in SEEDS])
    return [name == word for name in judge.names(pictures)]


def by_literal(word: str) -> list[dict[str, Any]]:
    """The transcription's looks, until nothing is found."""
    pipe, judge, looks = efface.pipeline("emoji"), reporting(), list[dict[str, Any]]()
    begun, spent = time.process_time(), 0.0

    def look(update: int, unet: Any, rows: int) -> bool:
        nonlocal spent
        seconds = time.process_time() - begun - spent
        view = copy.copy(pipe)
        view.unet = unet
        seen = found(view, judge, word)
        spent = time.process_time() - begun - seconds
        looks.append(row(update, rows, seconds, seen))
        return not any(seen)

    literal(pipe, word, max(LOOKS), look)
    return looks


def by_ours(word: str) -> list[dict[str, Any]]:
    """Ours, trained anew for every look."""
    pipe, judge, looks = efface.pipeline("emoji"), reporting(), list[dict[str, Any]]()
    for steps in LOOKS:
        erased, rows, seconds = ours(pipe, word, steps)
        seen = found(erased, judge, word)
        looks.append(row(steps, rows, seconds, seen))
        if not any(seen):
            break
    return looks


def row(updates: int, rows: int, seconds: float, seen: list[bool]) -> dict[str, Any]:
    """One look."""
    told = {"updates": updates, "rows": rows, "cpu seconds": seconds, "found": share(seen)}
    print(told, flush=True)
    return told


LOOPS = {"literal": by_literal, "ours": by_ours}


def record(word: str, loop: str, looks: list[dict[str, Any]]) -> None:
    """Into the report, beside what is there."""
    known = json.loads(OUT.read_text())["looks"] if OUT.exists() else {}
    known.setdefault(word, {})[loop] = looks
    report = {
        "command": "make esd-cost",
        "efface": efface.__version__,
        "rate": RATE,
        "eta": ETA,
        "drawing steps": STEPS,
        "drawing guidance": CFG,
        "looks": known,
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CONCEPTS)
    parser.add_argument("--loop", choices=LOOPS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for word in (c for c in CONCEPTS if given.only in (None, c)):
        for loop in (n for n in LOOPS if given.loop in (None, n)):
            record(word, loop, LOOPS[loop](word))
