"""What attacks that only reword a prompt share: each wording once, if the model knows it apart."""

from collections.abc import Generator, Iterable
from dataclasses import replace

import torch

from efface.backbone import Backbone
from efface.core import Case, Verdict


def reworded(
    model: Backbone, case: Case, prompts: Iterable[str], most: int | None = None
) -> Generator[Case, Verdict, None]:
    """The case with other prompts, `most` of them, less those that the model reads as one before.

    Two prompts that give the same rows on every stream give the same picture.
    """
    seen = [_rows(model, case.prompt)]
    for prompt in prompts:
        if most is not None and len(seen) > most:
            return
        rows = _rows(model, prompt)
        if any(all(map(torch.equal, rows, other)) for other in seen):
            continue
        seen.append(rows)
        yield replace(case, prompt=prompt)


def _rows(model: Backbone, prompt: str) -> list[torch.Tensor]:
    return [model.encode([prompt], stream).states for stream in model.streams]
