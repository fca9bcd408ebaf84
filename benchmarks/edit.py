"""The edit alone against the rival's loops, in one process: ours with prompts and G in memory.

python -m benchmarks.edit FOLDER    # a Stable Diffusion folder
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from benchmarks.measure import spread
from benchmarks.rival import Weights, rece_epoch, uce
from efface.backbones.model import Model, open_folder
from efface.core import Concept
from efface.erasers import Eraser, build
from efface.erasers.rece import RECE
from efface.erasers.uce import UCE

WORD = "cat"
EPOCHS = 3
OURS = 7
"""Repeats of ours; theirs runs once."""


class Said:
    """The model's text encoder, run whenever it is asked."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def rows(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """Encode anew."""
        return self.model.text.encode(prompts)["text"].states

    def last(self, prompt: str) -> int:
        """From the tokenizer."""
        [encoder] = self.model.text.encoders
        return len(encoder.tokenizer(prompt, add_special_tokens=False).input_ids)


class Took(NamedTuple):
    """What a call cost and gave."""

    seconds: float
    cpu: float
    found: Any


def timed(what: Callable[[], Any]) -> Took:
    """Wall and CPU seconds, and what it gives."""
    started, busy = time.perf_counter(), time.process_time()
    found = what()
    return Took(time.perf_counter() - started, time.process_time() - busy, found)


def main(folder: Path) -> None:
    """Print the figures as JSON."""
    model, concept = open_folder(folder), Concept(WORD, (WORD,))
    everyday = Concept(WORD, (WORD,), keep=tuple(w for w in model.vocabulary if w != WORD))
    model.gram()
    ours = {
        "uce": repeated(model, build("uce", "paper"), concept),
        "authors": repeated(model, build("rece", "nudity", epochs=EPOCHS), concept),
        "default": repeated(model, build("rece"), everyday),
    }
    theirs, edited = rival(model)
    start = theirs["seconds"]["uce step"]
    whole = start + EPOCHS * theirs["seconds"]["rece epoch"]
    least = {name: min(t.seconds for t in took) for name, took in ours.items()}
    print(
        json.dumps(
            {
                "ours": {name: spread([t.seconds for t in took]) for name, took in ours.items()},
                "ours, cpu": {name: spread([t.cpu for t in took]) for name, took in ours.items()},
                "theirs": theirs["seconds"],
                "theirs, cpu": theirs["cpu"],
                "uce, times faster": start / least["uce"],
                "uce + 3 epochs, times faster": whole / least["authors"],
                "apart": {
                    "uce": apart(model, build("uce", "paper"), concept, edited[0]),
                    "one epoch": apart(
                        model, build("rece", "nudity", epochs=1), concept, edited[1]
                    ),
                },
            }
        )
    )


def repeated(model: Model, eraser: Eraser, concept: Concept) -> list[Took]:
    """What a whole fit costs, certificate and all, once its prompts have been encoded."""

    def fit() -> Any:
        return eraser.fit(model, concept, Generator(), lambda what, step, of: None)

    fit()
    return [timed(fit) for _ in range(OURS)]


def rival(model: Model) -> tuple[dict[str, dict[str, float]], tuple[Weights, Weights]]:
    """What one UCE step and one RECE epoch as released cost, and the weights after each."""
    base, text, pairs, keep = dict(model.readers()), Said(model), [(WORD, "")], [""]
    start, method = build("uce", "paper"), build("rece", "nudity")
    assert isinstance(start, UCE)
    assert isinstance(method, RECE)
    step = timed(
        lambda: uce(
            base,
            text,
            pairs,
            keep,
            erase_weight=start.erase_weight,
            keep_weight=start.keep_weight,
            ridge=start.ridge,
        )
    )
    epoch = timed(lambda: rece_epoch(base, step.found, text, pairs, keep, method))
    both = {"uce step": step, "rece epoch": epoch}
    cost = {
        "seconds": {name: took.seconds for name, took in both.items()},
        "cpu": {name: took.cpu for name, took in both.items()},
    }
    return cost, (step.found, epoch.found)


def apart(model: Model, eraser: Eraser, concept: Concept, theirs: Weights) -> float:
    """‖ours − theirs‖ as a share of the change, over all matrices; theirs is in float32."""
    [m] = eraser.fit(model, concept, Generator(), lambda what, step, of: None).maps
    off = change = 0.0
    for name, weight in model.readers():
        wide = weight.double()
        moved = (wide @ m.a.double()) @ m.b.double().T
        off += (wide + moved - theirs[name].double()).square().sum().item()
        change += moved.square().sum().item()
    return (off / change) ** 0.5


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]))
