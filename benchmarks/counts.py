"""Cost against the number of concepts, with a long list of kept names, on a folder's own G.

Rows are made up, on the ellipsoid that the text encoder's rows lie on: what the algebra costs does
not depend on what they say. What encoding costs is measured on some prompts and told per prompt.

    python -m benchmarks.counts FOLDER
"""

import json
import sys
import time
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from efface.backbones.gram import gram
from efface.backbones.model import BATCH, Model, open_folder
from efface.backbones.words import Words
from efface.core import Concept, Encoded
from efface.erasers import build

KEPT = 1734
"""Names in the list that UCE and RECE keep when they erase a style."""
COUNTS = (1, 10, 100, 1000)
LONGEST = 100
"""Most concepts that methods with 77 rows a concept are given."""
GOAL = "art"
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "uce, last row": ("uce", "current-code", {}),
    "uce, last to end": ("uce", "style", {}),
    "rece, all rows, one epoch": ("rece", "style", {}),
}
"""Name, method, preset, settings; the last two are the authors' for styles."""
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "to", "vi", "za", "du", "fe", "gi", "po")


class MadeUp(Model):
    """A model whose encoder says something random and fixed of every prompt."""

    @classmethod
    def of(cls, folder: Path) -> "MadeUp":
        """The folder's matrices, norms and lengths."""
        real = open_folder(folder)
        found = cls(
            real.kind,
            real.where,
            real.names,
            real._fetch,
            lambda _: real.text,
            Words((), ()),
            load_denoiser=real.denoiser,
            frozen=True,
        )
        found.known = {}
        found.tokens = real.encode([""]).states.shape[1]
        return found

    known: dict[str, torch.Tensor]
    tokens: int

    def encode(self, prompts: Sequence[str], stream: str = "text") -> Encoded:
        """Rows on the ellipsoid, the first the same in every prompt."""
        for prompt in prompts:
            if prompt not in self.known:
                self.known[prompt] = self._rows(prompt)
        last = torch.tensor([[len(p.split())] for p in prompts])
        ends = torch.full_like(last, self.tokens)
        states = torch.stack([self.known[p] for p in prompts])
        return Encoded(states, last, ends, last[:, 0] > 0)

    def _rows(self, prompt: str) -> torch.Tensor:
        [norm] = [e.norm for e in self.text.encoders]
        rng = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        start = torch.Generator().manual_seed(0)
        width = len(norm.weight)
        z = torch.cat(
            [
                torch.randn(1, width, generator=start),
                torch.randn(self.tokens - 1, width, generator=rng),
            ]
        )
        return torch.nn.functional.layer_norm(z, (width,), norm.weight, norm.bias).detach()


def names(count: int, start: int = 0) -> tuple[str, ...]:
    """Two made-up words each."""
    words = ["".join(s) for s in product(SYLLABLES, repeat=3)]
    return tuple(
        f"{words[i % len(words)]} {words[(7 * i + 3) % len(words)]}"
        for i in range(start, start + count)
    )


def main(folder: Path) -> None:
    """Print the figures as JSON."""
    model, keep = MadeUp.of(folder), names(KEPT)
    started = time.perf_counter()
    gram(weight for _, weight in model.readers())
    forming = time.perf_counter() - started
    model.gram()
    model.ellipsoids()
    found, busy = {}, {}
    for label, (method, preset, settings) in METHODS.items():
        eraser = build(method, preset, **settings)
        seconds, cpu = dict[int, float](), dict[int, float]()
        for count in COUNTS:
            if label != "uce, last row" and count > LONGEST:
                continue
            concept = Concept("names", names(count, KEPT), (GOAL,), keep)
            model.encode([*keep, *concept.erase])
            for _ in range(2 if count == 1 else 1):
                started, before = time.perf_counter(), time.process_time()
                eraser.fit(model, concept, Generator(), lambda what, step, of: None)
                took, used = time.perf_counter() - started, time.process_time() - before
                seconds[count] = round(min(took, seconds.get(count, took)), 3)
                cpu[count] = round(min(used, cpu.get(count, used)), 3)
        found[label], busy[label] = seconds, cpu
    report = {
        "fit seconds by concepts": found,
        "fit cpu seconds by concepts": busy,
        "forming G": round(forming, 3),
    }
    print(json.dumps(report | {"encoding": encoding(folder)}))


def encoding(folder: Path) -> dict[str, float]:
    """Seconds a prompt, in batches as `Model.encode` makes them, and of the whole kept list."""
    model = open_folder(folder)
    model.encode([""])
    started = time.perf_counter()
    model.encode(names(2 * BATCH))
    each = (time.perf_counter() - started) / (2 * BATCH)
    return {"seconds a prompt": round(each, 4), "kept list, scaled": round(each * KEPT, 1)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
