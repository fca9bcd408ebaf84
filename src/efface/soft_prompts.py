"""Prompts that are no words: rows learned in the place of what follows a prompt's last word.

An adversary of training. Each phrase has its own rows and its own steps of Adam; all of it is in
`state`, whose tensors are changed in place, so that a killed training can go on.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from efface.core import Said


class SoftPrompts:
    """Rows behind phrases, begun at random in [0, 1)."""

    def __init__(
        self, phrases: int, count: int, width: int, *, rate: float, decay: float, rng: Generator
    ) -> None:
        """`decay`: Adam's, added to the gradient."""
        begun = torch.rand(phrases, count, width, generator=rng)
        self._rows = [rows.clone().requires_grad_() for rows in begun]
        self._optimiser = torch.optim.Adam(self._rows, lr=rate, weight_decay=decay)
        for rows in self._rows:
            zeros = {key: torch.zeros_like(rows) for key in ("exp_avg", "exp_avg_sq")}
            self._optimiser.state[rows] = {"step": torch.tensor(0.0), **zeros}

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it knows."""
        found = {f"rows.{i}": rows.detach() for i, rows in enumerate(self._rows)}
        for i, rows in enumerate(self._rows):
            found |= {f"{key}.{i}": t for key, t in self._optimiser.state[rows].items()}
        return found

    def rows(self, phrase: Int[Tensor, "batch"]) -> Float[Tensor, "batch prompts width"]:
        """The rows of phrases by number; gradients reach them."""
        return torch.stack([self._rows[i] for i in phrase.tolist()])

    def step(self, loss: Float[Tensor, ""], phrase: Int[Tensor, "batch"]) -> None:
        """Descend `loss` in the rows of these phrases; the others' stay, and so does their Adam."""
        some = [self._rows[i] for i in phrase.unique().tolist()]
        for rows, grad in zip(
            some, torch.autograd.grad(loss, some, retain_graph=True), strict=True
        ):
            rows.grad = grad
        self._optimiser.step()
        self._optimiser.zero_grad()


def behind(said: Said, rows: Float[Tensor, "batch prompts width"]) -> Said:
    """The same prompts with `rows` behind the last word of each, as many as there is room for.

    They take the place of the end token and of padding, and are attended to.
    """
    name, text = next(iter(said.items()))
    width = text.states.shape[1]
    first = text.last[:, :1] + 1
    place = torch.arange(width) - first
    inside = (place >= 0) & (place < rows.shape[1])
    index = place.clamp(0, rows.shape[1] - 1)[:, :, None].expand(-1, -1, rows.shape[2])
    states = torch.where(inside[:, :, None], rows.gather(1, index), text.states)
    ends = torch.maximum(text.ends, (first + rows.shape[1]).clamp(max=width))
    return {**said, name: text._replace(states=states, ends=ends)}
