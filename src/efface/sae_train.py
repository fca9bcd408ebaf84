"""Training a top-k autoencoder: one step on a batch of rows, and what must be kept to go on.

The recipe of ItD (arXiv 2503.09446) and of Gao et al. (arXiv 2406.04093): tied start, features of
unit length, bias from a geometric median, and AuxK, which lets features that have not fired for
long explain what the others leave over. Gradients are written out: a step multiplies one dense
matrix, the encoder, and everything else sums k rows a token.

Deviations from ItD's code: tokens since a feature fired are counted, not steps, so that AuxK does
come on; its target is the residual alone and it moves no bias. Features are brought to unit length
after the step, not before it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag, normalize

from efface.core import EffaceError
from efface.sae import Code, TopK, chunks, decode

MEDIAN_ROWS = 32768
"""Rows that the geometric median is taken of, at most."""
MEDIAN_STEPS = 100
EPSILON = 6.25e-10
"""Adam's."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run."""

    features: int = 4096
    """n, at least k. More features are finer, and the file and each step larger."""
    k: int = 32
    """Features that a token may have, at least 1. More reconstruct better and mean less each."""
    epochs: int = 10
    """Times that the captions are gone through, at least 1."""
    batch: int = 1024
    """Tokens a step, at least 1. Larger steps are steadier and fewer."""
    rate: float = 1e-3
    """Adam's step length, above 0; reached after `warmup` steps."""
    warmup: int = 100
    """Steps, from 0, over which the step length rises."""
    dead_tokens: int = 100_000
    """A feature that has not fired for so many tokens is dead, and AuxK tries to revive it."""
    aux_k: int = 128
    """Dead features that may explain the residual of a token; 0: none, no AuxK."""
    aux_weight: float = 1 / 32
    """Weight of AuxK's loss against the reconstruction's, from 0."""
    seed: int = 0
    """Of the start and of the order of tokens."""

    def __post_init__(self) -> None:
        least = min(self.k, self.epochs, self.batch)
        if least < 1 or self.features < self.k or self.rate <= 0:
            raise EffaceError(
                "k, epochs and batch must be at least 1, features at least k, rate above 0: got "
                f"k {self.k}, epochs {self.epochs}, batch {self.batch}, features {self.features}, "
                f"rate {self.rate}"
            )
        if min(self.warmup, self.dead_tokens, self.aux_k, self.aux_weight) < 0:
            raise EffaceError("warmup, dead_tokens, aux_k and aux_weight must not be below 0")


class Figures(NamedTuple):
    """How well an autoencoder does on rows."""

    explained: float
    """1 − Σ|x̂ − x|² / Σ|x − x̄|²: 1 is all of the variance."""
    l0: float
    """Features above zero a row, on average."""
    dead: float
    """Share of features that are dead."""


class Trainer:
    """The autoencoder in training; encoder and decoder as rows, one a feature."""

    def __init__(self, recipe: Recipe, sample: Float[Tensor, "rows d"]) -> None:
        """`sample`: rows to start from."""
        self.recipe = recipe
        d, n = sample.shape[1], recipe.features
        rng = Generator().manual_seed(recipe.seed)
        start = (torch.rand(n, d, generator=rng) * 2 - 1) / math.sqrt(d)
        self.encoder, self.decoder = start, normalize(start, dim=1)
        self.shift, self.bias = torch.zeros(n), geometric_median(sample[:MEDIAN_ROWS])
        self.variance = sample.var(0, correction=0).mean()
        if not self.variance > 0:
            raise EffaceError("all rows to train on are alike: give captions that differ")
        self.quiet = torch.zeros(n, dtype=torch.long)
        """Tokens since each feature fired."""
        self.steps = 0
        self.adam = torch.optim.Adam(
            [self.encoder, self.decoder, self.shift, self.bias], eps=EPSILON, fused=True
        )
        for tensor in self._weights():
            tensor.grad = torch.zeros_like(tensor)
        self._adam_exists()

    def _weights(self) -> tuple[Tensor, ...]:
        return self.encoder, self.decoder, self.shift, self.bias

    def _adam_exists(self) -> None:
        """Make Adam's moments, so that a checkpoint has somewhere to go."""
        self.adam.param_groups[0]["lr"] = 0.0
        self.adam.step()
        for kept in self.adam.state.values():
            kept["step"].zero_()

    @property
    def dead(self) -> Int[Tensor, "dead"]:
        """Features that have not fired for long."""
        return (self.quiet > self.recipe.dead_tokens).nonzero()[:, 0]

    def step(self, rows: Float[Tensor, "rows d"]) -> Figures:
        """One step of Adam down L = mean (x̂ − x)² / variance + AuxK."""
        dead = self.dead
        code, revived = self._encode(rows - self.bias, dead)
        off = decode(code, self.decoder) + self.bias - rows
        if not off.isfinite().all():
            raise EffaceError(
                f"training left the finite numbers at step {self.steps}: lower the rate"
            )
        scale = 2 / off.numel()
        pull = off * (scale / self.variance)
        parts = [(code, pull)]
        if len(dead) and self.recipe.aux_k:
            left = -off
            missed = decode(revived, self.decoder) - left
            spread = left.var(0, correction=0).mean().clamp(min=1e-20)
            parts.append((revived, missed * (self.recipe.aux_weight * scale / spread)))
        self._descend(rows - self.bias, parts, pull.sum(0))
        fired = code.at[code.values > 0]
        self.quiet += len(rows)
        self.quiet[fired] = 0
        around = (rows - rows.mean(0)).square().sum().clamp(min=1e-20)
        l0 = len(fired) / max(1, len(rows))
        return Figures(1 - (off.square().sum() / around).item(), l0, len(dead) / len(self.quiet))

    def _encode(self, centred: Tensor, dead: Tensor) -> tuple[Code, Code]:
        """The code of each row, and its code in dead features alone."""
        k, aux = self.recipe.k, min(self.recipe.aux_k, len(dead))
        found = list[tuple[Tensor, ...]]()
        for chunk in chunks(centred, len(self.shift)):
            a = torch.addmm(self.shift, chunk, self.encoder.T)
            top, low = a.topk(k, sorted=False), a[:, dead].topk(aux, sorted=False)
            found.append((top.values.relu(), top.indices, low.values.relu(), dead[low.indices]))
        top_values, top_at, low_values, low_at = (torch.cat(x) for x in zip(*found, strict=True))
        return Code(top_values, top_at), Code(low_values, low_at)

    def _descend(
        self, centred: Tensor, parts: list[tuple[Code, Tensor]], pull: Float[Tensor, "d"]
    ) -> None:
        """Gradients of all parts, each a code and the gradient of what it decodes to; one step."""
        encoder, decoder = torch.zeros_like(self.encoder), torch.zeros_like(self.decoder)
        shift = torch.zeros_like(self.shift)
        for code, gradient in parts:
            back = Code(dots(code, self.decoder, gradient) * (code.values > 0), code.at)
            decoder += gathered(code, gradient, len(shift))
            encoder += gathered(back, centred, len(shift))
            shift.index_add_(0, back.at.flatten(), back.values.flatten())
        decoder -= (decoder * self.decoder).sum(1, keepdim=True) * self.decoder
        found = (encoder, decoder, shift, pull - shift @ self.encoder)
        for tensor, gradient in zip(self._weights(), found, strict=True):
            tensor.grad = gradient
        self.steps += 1
        share = min(1.0, self.steps / max(1, self.recipe.warmup))
        self.adam.param_groups[0]["lr"] = self.recipe.rate * share
        self.adam.step()
        self.decoder.copy_(normalize(self.decoder, dim=1))

    def finished(self) -> TopK:
        """The autoencoder as it stands."""
        encoder = self.encoder.T.contiguous()
        return TopK(
            self.recipe.k, encoder, self.shift.clone(), self.decoder.clone(), self.bias.clone()
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that a step depends on, by name; written into, they bring a state back."""
        found = {"quiet": self.quiet, "variance": self.variance}
        for name, tensor in zip(
            ("encoder", "decoder", "shift", "bias"), self._weights(), strict=True
        ):
            kept = self.adam.state[tensor]
            found |= {name: tensor, f"{name}.m": kept["exp_avg"], f"{name}.v": kept["exp_avg_sq"]}
            found[f"{name}.t"] = kept["step"]
        return found


def dots(
    code: Code, features: Float[Tensor, "n d"], rows: Float[Tensor, "rows d"]
) -> Float[Tensor, "rows k"]:
    """Each row times each feature of its code, without the features laid out row by row."""
    values = code.values.detach().requires_grad_()
    total = embedding_bag(code.at, features, per_sample_weights=values, mode="sum")
    [found] = torch.autograd.grad(total, values, rows)
    return found


def gathered(code: Code, rows: Float[Tensor, "rows d"], n: int) -> Float[Tensor, "n d"]:
    """For every feature the sum of the rows that have it, each times its value: Zᵀ rows."""
    places = code.at.flatten()
    order = places.argsort(stable=True)
    ends = torch.bincount(places, minlength=n).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    weights = code.values.flatten()[order]
    which = order // code.at.shape[1]
    return embedding_bag(which, rows, starts, per_sample_weights=weights, mode="sum")


def geometric_median(rows: Float[Tensor, "rows d"]) -> Float[Tensor, "d"]:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration."""
    point = rows.mean(0)
    for _ in range(MEDIAN_STEPS):
        weights = 1 / (rows - point).norm(dim=1).clamp(min=1e-8)
        point = weights @ rows / weights.sum()
    return point


def figures(sae: TopK, rows: Float[Tensor, "rows d"]) -> Figures:
    """How well an autoencoder does on rows; dead: those features that never fire there."""
    code = sae.encode(rows)
    off = (sae.decode(code) - rows).square().sum()
    fired = code.at[code.values > 0]
    around = (rows - rows.mean(0)).square().sum()
    alive = len(fired.unique()) / len(sae.b_enc)
    return Figures(1 - (off / around).item(), len(fired) / len(rows), 1 - alive)
