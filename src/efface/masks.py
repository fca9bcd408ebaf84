"""Masks that are learned: which weights of a denoiser to set to zero, under any loss of weights.

Every weight has a logit u. While it is learned the weight counts by how far it is on, the stretched
and cut sigmoid of hard concrete gates (Louizos, Welling and Kingma, arXiv:1712.01312, Eq. 13, no
noise), so that the loss sees it go; the sigmoid is sharpened (ours), so that in the end, where it
stays whole if u > 0, little is rounded. A mask that is 0 or 1 from the start (straight-through)
tells the loss nothing until most logits cross at once: on the bundled model it pruned four times as
much and took neighbours along. `settled` may cut a mask to a share of the weights, those of the
lowest logits: masks of one training are nested in the share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.core import Edit, EffaceError
from efface.settings import at_least
from efface.train import Loss, Trained, Weights, train, watching

START = 2.5
"""Logit that all weights begin with: all count whole, and a tenth less begins to count less."""
LOW, HIGH = -0.1, 1.1
"""γ and ζ, what the sigmoid is stretched to before it is cut at 0 and 1."""
SOFT, SHARP = 0.3, 0.1
"""Share of the steps before sharpening begins, and what logits are divided by at its end."""
Tensors = Mapping[str, Tensor]


def begun(base: Tensors) -> dict[str, Tensor]:
    """Logits of every matrix and kernel; biases and norms are not masked."""
    return {n: torch.full_like(w.float(), START) for n, w in base.items() if w.ndim > 1}


def warmth(step: int, steps: int) -> float:
    """What logits are divided by: 1, then falling evenly in its logarithm."""
    late: float = max(0.0, step / steps - SOFT) / (1 - SOFT)
    return SHARP**late


def degree(logits: Float[Tensor, "*shape"], warm: float) -> Float[Tensor, "*shape"]:
    """How far each weight is on, 0 to 1; gradients pass the cut, so that all may move."""
    wide = LOW + (HIGH - LOW) * (logits / warm).sigmoid()
    return wide + (wide.clamp(0, 1) - wide).detach()


def masked(base: Tensors, logits: Tensors, warm: float) -> dict[str, Tensor]:
    """The weights as far as they are on."""
    return {n: base[n].detach() * degree(u, warm) for n, u in logits.items()}


def pruned(base: Tensors, masks: Tensors) -> dict[str, Tensor]:
    """The weights that stay, and zeros."""
    return {n: base[n].detach() * m for n, m in masks.items()}


def gone(logits: Tensors) -> Float[Tensor, ""]:
    """Σ sigmoid(−u) / N: about the share of weights that are zero."""
    count = sum(u.numel() for u in logits.values())
    return torch.stack([(-u).sigmoid().sum() for u in logits.values()]).sum() / count


def settled(logits: Tensors, ratio: float) -> dict[str, Tensor]:
    """Masks with at most `ratio` of all weights at 0: those of the lowest logits."""
    flat = torch.cat([u.flatten() for u in logits.values()])
    count = min(int((flat <= 0).sum()), int(ratio * len(flat)))
    keep = torch.ones_like(flat)
    keep[flat.argsort(stable=True)[:count]] = 0
    parts = keep.split([u.numel() for u in logits.values()])
    return {n: part.view(u.shape) for (n, u), part in zip(logits.items(), parts, strict=True)}


def mask_edits(masks: Tensors) -> tuple[Edit, ...]:
    """W * mask, for matrices that lose a weight; two bytes a weight."""
    return tuple(Edit(n, "mul", m.half().cpu()) for n, m in masks.items() if not m.all())


def share(masks: Tensors) -> float:
    """Of the weights that could be zero, those that are."""
    lost = sum((m == 0).sum().item() for m in masks.values())
    return lost / sum(m.numel() for m in masks.values())


@dataclass(frozen=True)
class Pruning:
    """Settings of a mask, beside those of the training that learns it."""

    rate: float = 0.2
    """Adam's learning rate of the logits, above 0. Higher prunes sooner."""
    sparsity: float = 0.1
    """Weight, from 0, of the share pruned. Higher prunes less."""
    ratio: float = 1.0
    """At most this share is pruned, 0 to 1, the weights of the lowest logits."""

    def check_mask(self) -> None:
        """Refuse what no mask can be learned with."""
        at_least(self, 0, "sparsity")
        if not 0 <= self.ratio <= 1:
            raise EffaceError(f"ratio must lie in 0 to 1: got {self.ratio}")


def learned(
    base: Tensors,
    loss: Loss,
    moved: Callable[[Weights], float],
    how: Pruning,
    most_moved: float | None,
    *,
    steps: int,
    **settings: Any,
) -> tuple[tuple[Edit, ...], Trained, float]:
    """The mask that descends `loss` of the masked weights, what came of it, the share pruned.

    `moved`: how far weights move what is kept; `settings` are those of `efface.train.train`.
    """
    trained = train(
        begun(base),
        lambda u, step, rng: (
            loss(masked(base, u, warmth(step, steps)), step, rng) + how.sparsity * gone(u)
        ),
        watch=watching(lambda u: moved(pruned(base, settled(u, how.ratio))), most_moved),
        steps=steps,
        rate=how.rate,
        **settings,
    )
    masks = settled(trained.weights, how.ratio)
    return mask_edits(masks), trained._replace(weights=pruned(base, masks)), share(masks)
