"""Measure a bundled model against its bars: `make model-report` writes claims/MODEL-model.json.

Everything is judged by the reporting judge, at 20 steps, guidance 5 and fixed seeds.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest

import efface
from efface.backbones.checkpoint import resolve
from efface.backbones.pipeline import draw, load_pipeline
from efface.core import Case
from efface.detectors.judge import Judge, reporting, tuning
from recipes.emoji.data import load, on_background
from recipes.emoji.latents import composites
from recipes.emoji.world import BACKGROUNDS, NAMES, SIZE, STYLES, THINGS
from studies.readme import README, publish

STEPS, GUIDANCE = 20, 5.0
DRAWN = {
    "concept": 0.85,
    "concept, worst tenth": 0.50,
    "style": 0.85,
    "background": 0.95,
    "concept, held-out pairs": 0.60,
    "concept, synonyms": 0.75,
}
PARTS = {"autoencoder dB": 25.0, "judge tuning": 0.97, "judge reporting": 0.97}
"""Of `emoji`; the other models have the same autoencoder and judges."""
SPEED = {"seconds for 16 pictures": 10.0}
BARS = {
    "emoji": DRAWN | PARTS | SPEED,
    "emoji-dit": {name: round(bar - 0.05, 2) for name, bar in DRAWN.items()} | SPEED,
}
PAGES = {"emoji": README, "emoji-dit": Path("docs/families.md")}
"""Where a model's tables are."""
MODULE = "python -m recipes.emoji.report"
Prompt = tuple[str, str]
"""A prompt and the name that should be seen."""


def share(hits: list[bool]) -> dict[str, Any]:
    """A fraction with its Wilson interval."""
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {
        "value": sum(hits) / len(hits),
        "interval": [round(low, 4), round(high, 4)],
        "n": len(hits),
    }


def ask(pipe: Any, judge: Judge, prompts: list[Prompt], seeds: range, group: str) -> list[bool]:
    """Whether each drawn picture shows what its prompt names, prompt by prompt."""
    cases = [Case(text, seed, STEPS, GUIDANCE) for text, _ in prompts for seed in seeds]
    pictures = draw_many(pipe, cases)
    expected = [name for _, name in prompts for _ in seeds]
    return [a == b for a, b in zip(judge.names(pictures, group), expected, strict=True)]


def draw_many(pipe: Any, cases: list[Case]) -> list[Image.Image]:
    """Draw in large batches; matrix products in bfloat16, two to three times as fast here."""
    with torch.autocast(pipe.device.type, torch.bfloat16):
        return draw(pipe, cases, lambda *_: None, batch=64)


def measure(model: str, thin: int) -> dict[str, Any]:
    """Every bar's figure."""
    pipe = load_pipeline(model)
    found = drawn(pipe, reporting(model), thin)
    if set(PARTS) <= set(BARS[model]):
        found |= parts(pipe)
    return found | {"seconds for 16 pictures": {"value": seconds_for_sixteen(pipe)}}


def drawn(pipe: Any, judge: Judge, thin: int) -> dict[str, Any]:
    """What pictures show of their prompts; of one prompt in `thin`."""
    data, rng = load(), np.random.default_rng(0)
    found: dict[str, Any] = {}
    names = NAMES[::thin]
    plain = ask(pipe, judge, [(f"a {n}", n) for n in names], range(4), "concept")
    found["concept"] = share(plain)
    each = np.array(plain).reshape(len(names), -1).mean(1)
    worst = np.argsort(each)[: len(names) // 10]
    found["concept, worst tenth"] = {"value": float(each[worst].mean()), "n": len(worst) * 4}
    found["weakest concepts"] = {names[i]: float(each[i]) for i in worst}
    styles, grounds = list(STYLES), list(BACKGROUNDS)
    pairs = list(zip(data.thing, data.style, data.held_out, strict=True))
    kept = [p for p in pairs if not p[2]]
    some = [kept[i] for i in rng.choice(len(kept), 216, replace=False)]
    prompts = [(f"a {NAMES[t]} in {styles[s]} style", styles[s]) for t, s, _ in some]
    found["style"] = share(ask(pipe, judge, prompts[::thin], range(100, 101), "style"))
    colours = [(n, grounds[i % len(grounds)]) for i, n in enumerate(NAMES)]
    prompts = [(f"a {n} on a {g} background", g) for n, g in colours]
    found["background"] = share(ask(pipe, judge, prompts[::thin], range(200, 201), "background"))
    prompts = [(f"a {NAMES[t]} in {styles[s]} style", NAMES[t]) for t, s, out in pairs if out]
    seen = ask(pipe, judge, prompts[::thin], range(300, 302), "concept")
    found["concept, held-out pairs"] = share(seen)
    prompts = [(f"a {word}", t.name) for t in THINGS for word in t.aka]
    seen = ask(pipe, judge, prompts[::thin], range(400, 402), "concept")
    found["concept, synonyms"] = share(seen)
    return found


def parts(pipe: Any) -> dict[str, Any]:
    """The autoencoder and the judges by themselves."""
    return {
        "autoencoder dB": {"value": reconstruction(pipe)},
        "judge tuning": share(fresh_renderings(tuning())),
        "judge reporting": share(fresh_renderings(reporting())),
    }


def reconstruction(pipe: Any) -> float:
    """Peak signal to noise of every trained picture through the autoencoder, dB."""
    trained = np.flatnonzero(~load().held_out)
    errors = []
    for i in range(0, len(trained), 32):
        true = composites(
            trained[i : i + 32], np.arange(len(trained[i : i + 32])) % len(BACKGROUNDS)
        )
        with torch.no_grad():
            drawn = pipe.vae.decode(pipe.vae.encode(true).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((drawn - true) / 2).square().mean((1, 2, 3)))
    return float(-10 * torch.cat(errors).mean().log10())


def fresh_renderings(judge: Judge) -> list[bool]:
    """Trained pairs drawn anew: twice as large, shrunk by another filter, shifted."""
    data = load()
    colours = list(BACKGROUNDS.values())
    pictures, expected = [], []
    for i in np.flatnonzero(~data.held_out):
        large = Image.fromarray(on_background(data.large[i], colours[i % len(colours)]))
        moved = large.transform(
            large.size,
            Image.Transform.AFFINE,
            (1, 0, 2, 0, 1, -2),
            fillcolor=colours[i % len(colours)],
        )
        pictures.append(moved.resize((SIZE, SIZE), Image.Resampling.BOX))
        expected.append(NAMES[data.thing[i]])
    return [a == b for a, b in zip(judge.names(pictures), expected, strict=True)]


def seconds_for_sixteen(pipe: Any) -> float:
    """Wall time of one batch of 16 pictures, the better of two."""
    times = []
    for seed in (0, 16):
        started = time.perf_counter()
        draw(pipe, [Case("a cat", seed + i, STEPS, GUIDANCE) for i in range(16)], lambda *_: None)
        times.append(time.perf_counter() - started)
    return min(times)


def verdicts(found: dict[str, Any], bars: dict[str, float]) -> dict[str, bool]:
    """Whether each bar holds."""
    return {
        k: bool(found[k]["value"] <= v if k in SPEED else found[k]["value"] >= v)
        for k, v in bars.items()
    }


def report(model: str, thin: int) -> None:
    """Measure one model, write its claim and its table."""
    figures, bars = measure(model, thin), BARS[model]
    holds = verdicts(figures, bars)
    claim = {
        "command": "make model-report" if thin == 1 else f"{MODULE} {model} --thin {thin}",
        "efface": efface.__version__,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "precision": "bfloat16 autocast; the time of 16 pictures in float32",
        "training": json.loads((resolve(model) / "training.json").read_text()),
        "bars": bars,
        "measured": figures,
        "holds": holds,
    }
    Path(f"claims/{model}-model.json").write_text(json.dumps(claim, indent=1) + "\n")
    rows = [f"| {n} | {figures[n]['value']:.3f} | {bar} |" for n, bar in bars.items()]
    table = "\n".join(["| | measured | bar |", "|---|---|---|", *rows])
    publish("model-report", table, PAGES[model])
    for name, ok in holds.items():
        value = figures[name]["value"]
        print(f"{'holds' if ok else 'MISSED':7}{model}, {name}: {value:.3f} (bar {bars[name]})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(BARS), metavar="MODEL")
    parser.add_argument("--thin", type=int, default=1, help="measure one prompt in so many")
    options = parser.parse_args()
    for name in options.models:
        report(name, options.thin)
