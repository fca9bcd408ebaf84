"""Receler on the bundled model: found, attacked, and its cost: `make receler-report`.

Two erasers are attacked alike: with learned rows in the prompt, as the paper means it, and without,
as the released code runs (`as_released`). The attack has the model: it learns rows behind the
concept's word, or all rows of the prompt, by which the erased denoiser says what the base says
under the concept, at drawings that no fit has seen. Pictures are drawn under what it has after so
many steps, by seeds that no fit has seen either.

Cost is CPU seconds an update, of many less those of few, so that what comes once is out of it.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

import efface
from efface.backbones.model import open_pipeline
from efface.core import Case, Concept, quiet
from efface.detectors.judge import Judge, reporting
from efface.erasers import build
from efface.moments import remembered, said_by, say
from efface.patch import Patch
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share

OUT = Path("claims/receler.json")
CONCEPTS = ("cigarette", "church")
"""Only the first is attacked, and erased by all."""
ARMS: dict[str, dict[str, Any]] = {
    "receler": {"method": "receler"},
    "receler as released": {"method": "receler", "as_released": True},
}
SEEDS = range(2000, 2016)
LOOKS = (20, 40)
"""Steps of the attack after which pictures are drawn."""
RATE = {"behind": 0.1, "all": 0.05}
"""Adam's, of rows behind the word and of all rows."""
EVERY = 4
"""One of so many of the other things is drawn, once."""
UPDATES = (2, 12)
ROUNDS = 3


def found(pipe: Any, judge: Judge, word: str, rows: Tensor | None = None) -> list[bool]:
    """Whether each picture shows it."""
    cases = [Case(f"a {word}", s, STEPS, GUIDANCE, embeds=rows) for s in SEEDS]
    return [name == word for name in judge.names(draw_many(pipe, cases))]


def attacked(
    base: Any, erased: Any, word: str, form: str, seed: int = 0
) -> Iterator[tuple[int, Float[Tensor, "tokens width"], float]]:
    """Steps, the prompt's rows then, and the mean loss of the last few steps."""
    model, denoiser = open_pipeline(base), open_pipeline(erased).denoiser()
    named, empty = say(model, [f"a {word}"]), say(model, [""])
    text = named["text"]
    drawn = remembered(
        model.denoiser(), named, empty, torch.zeros(8, dtype=torch.long),
        steps=STEPS, guidance=3.0, seed=99, on_step=quiet,
    )  # fmt: skip
    rng, first = Generator().manual_seed(seed), int(text.last[0, 0]) + 1
    rows = text.states
    if form == "behind":
        rows = torch.randn(1, 16, rows.shape[2], generator=rng)
    rows = rows.clone().requires_grad_()
    optimiser, losses = torch.optim.Adam([rows], lr=RATE[form]), list[float]()

    def put() -> Tensor:
        if form == "all":
            return rows
        return torch.cat([text.states[:, :first], rows, text.states[:, first + 16 :]], 1)

    for step in range(1, max(LOOKS) + 1):
        some = drawn.at(torch.randint(len(drawn.times), (4,), generator=rng))
        said = said_by({"text": text._replace(states=put())}, some.pair)
        out = denoiser.predict(some.latents, some.times, said)
        loss = (out - some.named).square().mean()
        optimiser.zero_grad()
        [rows.grad] = torch.autograd.grad(loss, [rows])
        optimiser.step()
        losses.append(loss.item())
        if step in LOOKS:
            yield step, put().detach()[0], sum(losses[-5:]) / 5


def erase(word: str, how: dict[str, Any]) -> tuple[Patch, float]:
    """The patch and the CPU seconds it took, drawings included where none were kept."""
    begun = time.process_time()
    patch = efface.erase("emoji", word, **how)
    return patch, time.process_time() - begun


def arm(pipe: Any, judge: Judge, word: str, how: dict[str, Any], *, attack: bool) -> dict[str, Any]:
    """All that is told of one eraser of one concept."""
    patch, seconds = erase(word, how)
    view = efface.apply(pipe, patch)
    told: dict[str, Any] = {
        "cpu seconds": round(seconds, 1),
        "moved": patch.facts["moved"],
        "trained": patch.facts["trained"],
        "bytes": len(patch.to_bytes()),
        "found": share(found(view, judge, word)),
        "others": share(others(view, judge, word)),
        "attacked": [],
    }
    for form in RATE if attack else ():
        for step, rows, loss in attacked(pipe, view, word, form):
            seen = share(found(view, judge, word, rows))
            told["attacked"].append({"rows": form, "steps": step, "loss": loss, "found": seen})
    return told


def others(pipe: Any, judge: Judge, word: str) -> list[bool]:
    """Whether other things are what is seen of them."""
    words = [w for w in open_pipeline(pipe).things if w != word][::EVERY]
    cases = [Case(f"a {w}", SEEDS[0], STEPS, GUIDANCE) for w in words]
    return [a == b for a, b in zip(words, judge.names(draw_many(pipe, cases)), strict=True)]


def cost() -> dict[str, float]:
    """CPU seconds of an update, the least of some rounds; Receler's outside its inner attack."""
    model = open_pipeline(efface.pipeline("emoji"))
    concept = Concept("cigarette", ("cigarette",), keep=("pizza", "church"))
    few: dict[str, Any] = {"drawings": 2, "keep_drawings": 2}
    build("esd", **few, steps=0).fit(model, concept, Generator().manual_seed(0), quiet)  # draws
    arms: dict[str, dict[str, Any]] = {"esd": {}, "receler": {"attack_steps": 0}}
    least = dict.fromkeys(arms, float("inf"))
    for name, more in [*arms.items()] * ROUNDS:
        spent = list[float]()
        for steps in UPDATES:
            eraser = build(name, **few, **more, steps=steps)
            begun = time.process_time()
            eraser.fit(model, concept, Generator().manual_seed(0), quiet)
            spent.append(time.process_time() - begun)
        least[name] = min(least[name], (spent[1] - spent[0]) / (UPDATES[1] - UPDATES[0]))
    return least | {"ratio": least["receler"] / least["esd"]}


def main() -> None:
    """Into the report, beside what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=(*CONCEPTS, "cost"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    report |= {"command": "make receler-report", "efface": efface.__version__, "model": "emoji"}
    report.setdefault("concepts", {})
    if given.only in (None, "cost"):
        report["cpu seconds an update"] = cost()
    pipe, judge = efface.pipeline("emoji"), reporting()
    for word in (c for c in CONCEPTS if given.only in (None, c)):
        told: dict[str, Any] = {"no eraser": {"found": share(found(pipe, judge, word))}}
        told["no eraser"]["others"] = share(others(pipe, judge, word))
        first = word == CONCEPTS[0]
        for name, how in ARMS.items() if first else [("receler", ARMS["receler"])]:
            told[name] = arm(pipe, judge, word, how, attack=first)
            print(word, name, told[name], flush=True)
            report["concepts"][word] = told
            OUT.write_text(json.dumps(report, indent=1) + "\n")
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
