"""UCE and RECE as the papers write them: one matrix at a time, in loops over rows, in float64.

Nothing of `efface` is used but the model's rows and matrices.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from efface.backbones.model import Model
from efface.core import Concept

Weights = dict[str, Tensor]
Block = tuple[Float[Tensor, "n width"], Float[Tensor, "n width"]]
"""Rows of one phrase and the row that each becomes."""


def weights(model: Model) -> Weights:
    return {name: weight.double() for name, weight in model.readers()}


def states(model: Model, prompt: str) -> Float[Tensor, "tokens width"]:
    return model.encode([prompt]).states[0].double()


def last_word(model: Model, prompt: str) -> int:
    """The start token is at 0, so the k-th word piece is at k."""
    [encoder] = model.text.encoders
    return len(encoder.tokenizer(prompt, add_special_tokens=False).input_ids)


def blocks(model: Model, concept: Concept, policy: str) -> list[Block]:
    found = []
    for phrase, goal in zip(concept.erase, concept.goals(), strict=True):
        old, new = states(model, phrase), states(model, goal)
        i, j = last_word(model, phrase), last_word(model, goal)
        if policy == "last":
            steps = [0]
        elif policy == "last_to_end":
            steps = [n for n in range(len(old)) if max(i, j) + n < len(old)]
        else:
            i, j, steps = 0, 0, list(range(len(old)))
        found.append(
            (torch.stack([old[i + n] for n in steps]), torch.stack([new[j + n] for n in steps]))
        )
    return found


def kept(model: Model, concept: Concept, policy: str) -> list[Float[Tensor, "width"]]:
    if policy == "last":
        return [states(model, k)[last_word(model, k)] for k in concept.keep]
    return [row for k in ("", *concept.keep) for row in states(model, k)]


def uce(
    base: Weights,
    phrases: Sequence[Block],
    keep: Sequence[Float[Tensor, "width"]],
    *,
    s: float,
    p: float,
    ridge: float,
    technique: Literal["replace", "tensor"] = "replace",
) -> Weights:
    """UCE's update (its Eq. 7) of every matrix."""
    edited = {}
    for name, w in base.items():
        left, right = ridge * w, ridge * torch.eye(w.shape[1], dtype=torch.float64)
        for old, new in phrases:
            values = new @ w.T
            if technique == "tensor":
                unit = old @ w.T / (old @ w.T).norm()
                values = values - (unit * values).sum() * unit
            for c, v in zip(old, values, strict=True):
                left, right = left + s * torch.outer(v, c), right + s * torch.outer(c, c)
        for r in keep:
            left, right = left + p * torch.outer(w @ r, r), right + p * torch.outer(r, r)
        edited[name] = torch.linalg.solve(right.T, left.T).T
    return edited


def derived(
    base: Weights, edited: Weights, block: Block, derivation: str, mu: float
) -> Float[Tensor, "n width"]:
    """RECE's embedding of every row: the root of the gradient of its objective."""
    old, new = block
    eye = torch.eye(old.shape[1], dtype=torch.float64)
    found = []
    for c, target in zip(old, new, strict=True):
        system, right = torch.zeros_like(eye), torch.zeros_like(c)
        for name, w0 in base.items():
            w = edited[name]
            system, right = system + w.T @ w, right + w.T @ (w0 @ c)
            if derivation in ("surrogate1", "surrogate12"):
                system, right = system + mu * w.T @ w, right + mu * w.T @ (w @ c)
        if derivation != "surrogate1":
            anchor = {"regzero": 0 * c, "standardreg": target}.get(derivation, c)
            system, right = system + mu * eye, right + mu * anchor
        found.append(torch.linalg.solve(system, right))
    return torch.stack(found)


def rece(
    base: Weights,
    start: Weights,
    phrases: Sequence[Block],
    keep: Sequence[Float[Tensor, "width"]],
    *,
    derivation: str,
    mu: float,
    epochs: int,
    p: float,
    ridge: float,
) -> Weights:
    """RECE's epochs after its start: derive from the current weights, then erase on them."""
    edited = start
    for _ in range(epochs):
        found = [(derived(base, edited, block, derivation, mu), block[1]) for block in phrases]
        edited = uce(edited, found, keep, s=1.0, p=p, ridge=ridge)
    return edited
