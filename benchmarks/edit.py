"""The edit alone against the rival's loops, in one process: ours with prompts and G in memory.

python -m benchmarks.edit FOLDER    # a Stable Diffusion folder
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gives."""
    started = time.perf_counter()
    found = what()
    return time.perf_counter() - started, found


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
    start, whole = theirs["uce step"], theirs["uce step"] + EPOCHS * theirs["rece epoch"]
    print(
        json.dumps(
            {
                "ours": {name: spread(seconds) for name, seconds in ours.items()},
                "theirs": theirs,
                "uce, times faster": start / min(ours["uce"]),
                "uce + 3 epochs, times faster": whole / min(ours["authors"]),
                "apart": {
                    "uce": apart(model, build("uce", "paper"), concept, edited[0]),
                    "one epoch": apart(
                        model, build("rece", "nudity", epochs=1), concept, edited[1]
                    ),
                },
            }
        )
    )


def repeated(model: Model, eraser: Eraser, concept: Concept) -> list[float]:
    """Seconds of a whole fit, certificate and all, once its prompts have been encoded."""

    def fit() -> Any:
        return eraser.fit(model, concept, Generator(), lambda what, step, of: None)

    fit()
    return [timed(fit)[0] for _ in range(OURS)]


def rival(model: Model) -> tuple[dict[str, float], tuple[Weights, Weights]]:
    """Seconds of one UCE step and one RECE epoch as released, and the weights after each."""
    base, text, pairs, keep = dict(model.readers()), Said(model), [(WORD, "")], [""]
    start, method = build("uce", "paper"), build("rece", "nudity")
    assert isinstance(start, UCE)
    assert isinstance(method, RECE)
    step, first = timed(
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
    epoch, second = timed(lambda: rece_epoch(base, first, text, pairs, keep, method))
    return {"uce step": step, "rece epoch": epoch}, (first, second)


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
