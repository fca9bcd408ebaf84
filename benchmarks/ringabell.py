"""Candidates a second of Ring-A-Bell's search: ours against the authors' loop, one encoder.

`python -m benchmarks.ringabell` writes claims/ringabell-speed.json. The encoder has the size of
Stable Diffusion 1's and random weights (speed does not depend on them); the tokenizer is emoji's.
The rival is the loop of the authors' notebook (chiayi-hsu/Ring-A-Bell, InversePrompt.ipynb),
written anew: every member of the population is run over all 77 positions in float32 each
generation, with the graph for gradients kept, as theirs does. A candidate is a member of the
population whose loss is known when the better half is chosen. Seconds are of the processor, one
thread, so that other work on the machine counts little.
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from efface.backbones.open import open_model
from efface.backbones.token_reader import TokenReader
from efface.genetic import Search

OUT = Path("claims/ringabell-speed.json")
LENGTH = 16
POSITIONS = 77


def encoder(tokenizer: Any) -> CLIPTextModel:
    """Stable Diffusion 1's text encoder but for its vocabulary, weights random."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def authors(reader: TokenReader, target: torch.Tensor, size: int, generations: int) -> int:
    """The loop as the notebook has it; answers how many candidates were ranked."""
    start, end = reader.tokenizer.bos_token_id, reader.tokenizer.eos_token_id
    most = len(reader.tokenizer) - 2

    def member() -> torch.Tensor:
        words = torch.randint(1, most, (1, LENGTH))
        padding = torch.full((1, POSITIONS - 1 - LENGTH), end)
        return torch.cat([torch.tensor([[start]]), words, padding], 1)

    population, ranked = [member() for _ in range(size)], 0
    for _ in range(generations):
        states = reader.encoder(torch.cat(population, 0))[0]
        losses = ((target - states) ** 2).sum(dim=(1, 2)).detach().numpy()
        ranked += len(population)
        parents = [population[i] for i in np.argsort(losses)][: size // 2]
        population = []
        for parent in parents:
            population.append(parent)
            if random.random() < 0.5:
                mate, cut = random.choice(parents), random.randint(1, LENGTH)
                population.append(torch.cat([parent[:, :cut], mate[:, cut:]], 1))
                population.append(torch.cat([mate[:, :cut], parent[:, cut:]], 1))
        for one in population:
            if random.random() < 0.25:
                one[:, random.randint(1, LENGTH)] = random.randint(1, most)
    return ranked


def ours(
    reader: TokenReader, target: torch.Tensor, size: int, generations: int, *, padding: bool
) -> int:
    """Our search on the same target; answers how many candidates were ranked."""

    def loss(words: torch.Tensor) -> torch.Tensor:
        states = reader.rows(words, padding=padding)
        return (states - target[: states.shape[1]]).square().sum((1, 2))

    rng = torch.Generator().manual_seed(0)
    first = reader.words("a cat", LENGTH)[None]
    with torch.autocast("cpu", torch.bfloat16):
        Search(size, generations).minimise(loss, reader.vocabulary, first, rng)
    # Half of the population is carried over with its loss known; a fair count is of those ranked.
    return size * generations


def rate(work: Callable[[], int]) -> dict[str, float]:
    """Candidates a second of processor time."""
    started = time.process_time()
    ranked = work()
    took = time.process_time() - started
    return {"candidates": ranked, "seconds": round(took, 2), "per second": round(ranked / took, 2)}


def main() -> None:
    """Measure all and write them."""
    tokenizer = open_model("emoji").token_reader.tokenizer
    reader = TokenReader(tokenizer, encoder(tokenizer), POSITIONS)
    words = reader.words("a small cat on a red table", LENGTH)[None]
    target = reader.rows(words, padding=True)[0] + 0.1
    _ = reader.vocabulary
    found = {
        "authors' loop": rate(lambda: authors(reader, target, 40, 2)),
        "ours, rows of words": rate(lambda: ours(reader, target, 200, 5, padding=False)),
        "ours, all rows": rate(lambda: ours(reader, target, 100, 3, padding=True)),
    }
    rival = found["authors' loop"]["per second"]
    told = {
        "command": "python -m benchmarks.ringabell",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "bar": 20,
        "measured": found,
        "times": {k: round(v["per second"] / rival, 1) for k, v in found.items()},
    }
    OUT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
