"""How near any prompt, even a soft one, can bring an erased concept back to the denoiser's door.

Ours; no published source. A text encoder's rows leave a norm, so they lie on an ellipsoid
e = A z + β with |z|² = d: A = diag(γ) after an RMSNorm, with Σz = 0 taken out after a LayerNorm,
projected where the encoder projects (see `efface.ellipsoids`). What the denoiser reads of a row e
is W T e for every projection W, so the distance from the concept's row c is ‖G^½(T e − c)‖ with
G = Σ WᵀW. Its least value over the ellipsoid is a quadratic on a sphere, solved exactly by
`efface.linalg.sphere_minimum`. The recovery curve is RECE's derived embedding (arXiv 2407.12383,
section 3) swept over its regulariser.

What it does NOT bound, and must be said wherever it is shown:

- anything but the rows of this one text stream, one row at a time: pooled text, a second encoder,
  ControlNet or IP-Adapter inputs, start images and latents (inversion, latent noise) stay free;
- attacks on weights: fine-tuning, relearning, undoing the map;
- other words: a concept that other rows than the judged ones also mean can be drawn from those;
- rows off the ellipsoid: an attacker who may feed any vector sends T⁻¹c; and where no norm ends
  the encoder (SDXL, SD 3) the ellipsoid is a ball around sampled prompts, an estimate;
- pictures: a distance in keys and values is not a rate at which a detector fires.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.core import EffaceError, Ellipsoid
from efface.linalg import LowRank, Spectrum, derive_regzero, sphere_minimum

_NIL = 1e-10
"""Below this share of cᵀGc, (v − c)ᵀG(v − c) is float32 round-off: the row is not moved at all."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """The certificate of every judged row: 0 fully recoverable, 1 as far off as its goal."""

    values: Float[Tensor, "judged"]
    """q(c), never below 0; above 1 where the edit overshoots the goal."""
    embeddings: Float[Tensor, "judged d"]
    """The minimisers e*: the best an attacker can feed in place of each row."""
    rows: Int[Tensor, "judged"]
    """Which of the rows given were judged; the rest are not moved by their goals (BOS)."""

    @property
    def min(self) -> float | None:
        """The most recoverable row; None when no row was judged."""
        return self.values.min().item() if len(self.values) else None

    @property
    def mean(self) -> float | None:
        """Mean over judged rows; None when there are none."""
        return self.values.mean().item() if len(self.values) else None


@dataclass(frozen=True, eq=False)
class Recovery:
    """What it costs to bring each row back, one line per regulariser μ."""

    residual: Float[Tensor, "ridges n"]
    """Σ|W x − W₀c|² / Σ|W₀c|²: 0 is full recovery."""
    norm: Float[Tensor, "ridges n"]
    """|x| / |c| of the embedding x that does it."""


class Adversary:
    """Whoever may feed any row that the encoder could give, against one edit."""

    def __init__(
        self, map: LowRank, gram: Float[Tensor, "d d"], ellipsoids: Sequence[Ellipsoid]
    ) -> None:
        """With e = A z + β, the spectrum of AᵀTᵀGTA is the same for all rows: it is kept."""
        self._map, self._gram, self._ellipsoids = map, gram.double(), ellipsoids
        self._cross, edited = map.pull(gram)
        self._hessians = [Spectrum.of(surface.pull(edited)) for surface in ellipsoids]

    def certificate(self, rows: Float[Tensor, "n d"], goals: Float[Tensor, "n d"]) -> Certificate:
        """q(c) = min over e of (T e − c)ᵀG(T e − c), over (v − c)ᵀG(v − c), for each c.

        Symbols: `rows` c, `goals` v. With r₀ = Tβ − c: minimise zᵀAᵀTᵀGTAz + 2(AᵀTᵀGr₀)ᵀz on
        |z|² = r².
        """
        map, gram, rows, goals = self._map, self._gram, rows.double(), goals.double()
        moved = _quadratic(gram, goals - rows)
        judged = (moved > _NIL * _quadratic(gram, rows)).nonzero().squeeze(1)
        rows, moved = rows[judged], moved[judged]

        left, embeddings = torch.full_like(moved, torch.inf), torch.zeros_like(rows)
        for hessian, (axes, shift, radius2, solid) in zip(
            self._hessians, self._ellipsoids, strict=True
        ):
            axes = axes.double()
            offset = map.apply(shift.double()[None]) - rows
            linear = -offset @ self._cross.T @ axes
            found = sphere_minimum(hessian, linear, radius2, solid=solid) @ axes.T + shift.double()
            nearest = _quadratic(gram, map.apply(found) - rows)
            nearer = nearest < left
            left[nearer], embeddings[nearer] = nearest[nearer], found[nearer]
        return Certificate((left / moved).clamp(min=0), embeddings, judged)


class Drift:
    """What edits move of rows that must stay.

    Measure it on phrasings that the fit did not see.
    """

    def __init__(self, gram: Float[Tensor, "d d"], rows: Float[Tensor, "n d"]) -> None:
        if not len(rows):
            raise EffaceError("drift of no rows: give the encoded rows of at least one kept prompt")
        self._gram, rows = gram.double(), rows.double()
        whole = _quadratic(self._gram, rows)[:, None]
        self._scatter = (rows / whole).T @ rows / len(rows)

    def of(self, map: LowRank) -> float:
        """Mean over rows of eᵀ(T − I)ᵀG(T − I)e / eᵀGe = tr(aᵀGa bᵀSb), S = mean of e eᵀ / eᵀGe."""
        a, b = map.a.double(), map.b.double()
        return ((a.T @ self._gram @ a) * (b.T @ self._scatter @ b)).sum().item()


def recovery_curve(
    map: LowRank,
    gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "n d"],
    ridges: Sequence[float],
) -> Recovery:
    """Residual against norm of RECE's embedding x(μ), for each μ in `ridges`.

    T is usually invertible, so as μ → 0 the residual goes to 0: what an edit buys is the norm that
    it takes to get there.
    """
    gram, rows = gram.double(), rows.double()
    derived = [derive_regzero(map, gram, rows, ridge) for ridge in ridges]
    left = torch.stack([_quadratic(gram, map.apply(x) - rows) for x in derived])
    norm = torch.stack([x.norm(dim=1) for x in derived])
    return Recovery(left / _quadratic(gram, rows), norm / rows.norm(dim=1))


def _quadratic(gram: Float[Tensor, "d d"], rows: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    return ((rows @ gram) * rows).sum(1)
