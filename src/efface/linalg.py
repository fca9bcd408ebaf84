"""Linear algebra of closed-form erasure: ridge map, low-rank maps, RECE's embedding, trust region.

Sources: UCE (arXiv 2308.14761), its closed-form update, and RECE (arXiv 2407.12383), its derived
embedding, both with the layers' common factor taken out: W' = W T, T = I + a bᵀ for every layer.
Quadratics on a sphere: Moré and Sorensen, "Computing a trust region step" (SIAM J. Sci. Stat.
Comput. 4, 1983).

Vectors are columns: a map sends e to T e and edits a weight to W T; states stacked as rows go to
E Tᵀ. Any float dtype is accepted, all work is done in float64 and float64 is returned: cast last.

Deviations from the authors' code: they invert the same matrix once per layer, explicitly and in
float32; here it is factorised once, in the space of the rows or of the embedding, the smaller.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SECULAR_STEPS = 200
"""Twice what bisection alone needs, from 60 decades to 13 digits: reached on NaN only."""

ROWS = 512
"""Rows whose secular equations are solved together: few enough to stay in the cache."""


class Pulled(NamedTuple):
    """A Gram matrix G = Σ W₀ᵀW₀ seen through an edit, W = W₀T."""

    cross: Float[Tensor, "d d"]
    """TᵀG = Σ WᵀW₀."""
    edited: Float[Tensor, "d d"]
    """TᵀGT = Σ WᵀW."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """The map T = I + a bᵀ."""

    a: Float[Tensor, "d r"]
    b: Float[Tensor, "d r"]

    @classmethod
    def identity(cls, width: int) -> "LowRank":
        """No edit: T = I, rank 0."""
        empty = torch.zeros(width, 0, dtype=torch.float64)
        return cls(empty, empty)

    def dense(self) -> Float[Tensor, "d d"]:
        """T itself."""
        eye = torch.eye(len(self.a), dtype=torch.float64, device=self.a.device)
        return eye + self.a.double() @ self.b.double().T

    def apply(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """E Tᵀ: every row e becomes T e."""
        rows = rows.double()
        return rows + (rows @ self.b.double()) @ self.a.double().T

    def compose(self, then: "LowRank") -> "LowRank":
        """This edit, then another on the weights it left: W T₁ T₂, so `then` meets e first.

        T₁ T₂ = I + [a₁, a₂] [b₁ + b₂ a₂ᵀ b₁, b₂]ᵀ. Ranks add; `compress` takes back what is spare.
        """
        a1, b1, a2, b2 = (x.double() for x in (self.a, self.b, then.a, then.b))
        return LowRank(torch.cat([a1, a2], 1), torch.cat([b1 + b2 @ (a2.T @ b1), b2], 1))

    def pull(self, gram: Float[Tensor, "d d"]) -> Pulled:
        """TᵀG and TᵀGT, without a product of two d×d matrices."""
        a, b, gram = self.a.double(), self.b.double(), gram.double()
        cross = gram + b @ (a.T @ gram)
        return Pulled(cross, cross + (cross @ a) @ b.T)

    def scale(self, strength: float) -> "LowRank":
        """I + strength · a bᵀ: 0 is no edit, 1 the edit as fitted."""
        return LowRank(self.a.double() * strength, self.b.double())

    def compress(self, tol: float) -> "LowRank":
        """The fewest columns with ‖T − T′‖₂ ≤ tol · ‖T − I‖₂ (truncated SVD, Eckart and Young).

        The SVD is of the small product that QR of the two factors leaves, never of a d×d matrix.
        """
        qa, ra = torch.linalg.qr(self.a.double())
        qb, rb = torch.linalg.qr(self.b.double())
        left, values, right = torch.linalg.svd(ra @ rb.T, full_matrices=False)
        kept = values > tol * values[:1]
        root = values[kept].sqrt()
        return LowRank(qa @ left[:, kept] * root, qb @ right.T[:, kept] * root)


def _solve(matrix: Float[Tensor, "d d"], right: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info:
        raise ValueError(
            f"a {len(matrix)}×{len(matrix)} system is not positive definite in float64: "
            "raise the ridge, and look for NaN in the embeddings"
        )
    return torch.cholesky_solve(right, factor)


def condensed(rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """At most d rows with the Gram matrix RᵀR of these, which is all that a solve takes of them."""
    if len(rows) <= rows.shape[1]:
        return rows.double()
    values, vectors = Spectrum.of(rows.double().T @ rows.double())
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def ridge_map(
    erase: Float[Tensor, "n d"],
    goal: Float[Tensor, "n d"],
    keep: Float[Tensor, "k d"] | None = None,
    *,
    keep_gram: Float[Tensor, "d d"] | None = None,
    erase_weight: float,
    keep_weight: float,
    ridge: float,
) -> LowRank:
    """The map that sends `erase` to `goal`, holds `keep`, and is else near the identity.

    T = argmin s Σ|T c − v|² + p Σ|T r − r|² + λ|T − I|² = (λI + s VᵀC + p RᵀR) M⁻¹ with
    M = λI + s CᵀC + p RᵀR (UCE's update with W taken out), in the form T − I = s (V − C)ᵀ C M⁻¹.
    Symbols: `erase` C, `goal` V, `keep` R, `erase_weight` s, `keep_weight` p, `ridge` λ.

    `keep_gram` is a precomputed RᵀR and adds to that of `keep`. Without it, and with fewer rows
    than the width, the solve is in the space of the rows (Woodbury). Rank: the erased rows.
    """
    if ridge <= 0 or erase_weight < 0 or keep_weight < 0:
        raise ValueError(
            f"ridge must be above 0 and weights not below 0: got ridge {ridge}, "
            f"erase_weight {erase_weight}, keep_weight {keep_weight}"
        )
    if erase.shape != goal.shape:
        raise ValueError(
            f"erased rows {tuple(erase.shape)} and goals {tuple(goal.shape)} must match row by row"
        )
    n, width = erase.shape
    keys = erase_weight**0.5 * erase.double()
    shift = erase_weight**0.5 * (goal.double() - erase.double())
    stack = keys if keep is None else torch.cat([keys, keep_weight**0.5 * keep.double()])
    if keep_gram is None and len(stack) < width:
        kernel = stack @ stack.T
        kernel.diagonal().add_(ridge)
        picks = torch.eye(len(stack), n, dtype=torch.float64, device=erase.device)
        return LowRank(shift.T, stack.T @ _solve(kernel, picks))
    moment = stack.T @ stack
    if keep_gram is not None:
        moment += keep_weight * keep_gram.double()
    moment.diagonal().add_(ridge)
    return LowRank(shift.T, _solve(moment, keys.T))


def derive_regzero(
    edit: LowRank,
    gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "n d"],
    ridge: float,
) -> Float[Tensor, "n d"]:
    """RECE's embedding, the one its paper uses: argmin Σ|W x − W₀ c|² + μ|x|² for every row c.

    x = (μI + TᵀGT)⁻¹ TᵀG c, with `edit` T, `gram` G = Σ W₀ᵀW₀, W = W₀T, `ridge` μ
    (`close_regzero`). As μ → 0 it is T⁻¹ c.
    """
    return _derive(edit, gram, rows, torch.zeros_like(rows), pull=ridge, hold=0.0)


def derive_standardreg(
    edit: LowRank,
    gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "n d"],
    target: Float[Tensor, "n d"],
    ridge: float,
) -> Float[Tensor, "n d"]:
    """The same with μ|x − t|², so near a target: (μI + TᵀGT)⁻¹ (μ t + TᵀG c).

    RECE's ablation `close_standardreg`.
    """
    return _derive(edit, gram, rows, target, pull=ridge, hold=0.0)


def derive_surrogatereg(
    edit: LowRank,
    gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "n d"],
    ridge: float,
    order: Literal["1st", "2nd", "both"],
) -> Float[Tensor, "n d"]:
    """The same with μ Σ|W (x − c)|² ("1st"), μ|x − c|² ("2nd") or the sum of the two ("both").

    With B = TᵀG and G′ = TᵀGT: ((1 + μ) G′)⁻¹ (B + μ G′) c, (μI + G′)⁻¹ (μI + B) c, and
    ((1 + μ) G′ + μI)⁻¹ (B + μ G′ + μI) c. RECE's ablation `close_surrogatereg`. "1st" needs an
    invertible T and a G of full rank.
    """
    pull = 0.0 if order == "1st" else ridge
    hold = 0.0 if order == "2nd" else ridge
    return _derive(edit, gram, rows, rows, pull=pull, hold=hold)


def _derive(
    edit: LowRank,
    gram: Float[Tensor, "d d"],
    rows: Float[Tensor, "n d"],
    anchor: Float[Tensor, "n d"],
    *,
    pull: float,
    hold: float,
) -> Float[Tensor, "n d"]:
    """Argmin over x of Σ|W x − W₀ c|² + hold Σ|W (x − c)|² + pull |x − anchor|², row by row."""
    (cross, current), columns = edit.pull(gram), rows.double().T
    right = (cross + hold * current) @ columns + pull * anchor.double().T
    system = (1 + hold) * current
    system.diagonal().add_(pull)
    return _solve(system, right).T


class Spectrum(NamedTuple):
    """H = Q diag(h) Qᵀ, h rising."""

    values: Float[Tensor, "d"]
    vectors: Float[Tensor, "d d"]

    @classmethod
    def of(cls, hessian: Float[Tensor, "d d"]) -> "Spectrum":
        """The spectrum of a symmetric matrix."""
        return cls(*torch.linalg.eigh(hessian.double()))


def sphere_minimum(
    hessian: Spectrum,
    linear: Float[Tensor, "n d"],
    radius2: float,
    *,
    solid: bool = False,
) -> Float[Tensor, "n d"]:
    """Exact minimiser of yᵀHy − 2bᵀy on |y|² = `radius2`, for each row b of `linear`.

    `solid`: on |y|² ≤ `radius2`. H is symmetric, of any sign. y = (H + lI)⁻¹ b with the l ≥ −h₀
    that meets the radius, h₀ the lowest eigenvalue. With H = Q diag(h) Qᵀ, β = Qᵀb and t = l + h₀,
    t solves the secular equation Σ (βᵢ / (hᵢ − h₀ + t))² = |y|². Hard case (b has nothing in the
    lowest eigenspace, and the rest at t = 0 is too short): the missing length goes along the lowest
    eigenvector, where its sign does not matter.
    """
    if radius2 <= 0:
        raise ValueError(f"the squared radius must be above 0: got {radius2}")
    values, vectors = hessian
    found = [
        _sphere_minimum(values, rows.double() @ vectors, radius2, solid=solid)
        for rows in linear.split(ROWS)
    ]
    return torch.cat(found) @ vectors.T


def _sphere_minimum(
    values: Float[Tensor, "d"], beta: Float[Tensor, "n d"], radius2: float, *, solid: bool
) -> Float[Tensor, "n d"]:
    """`sphere_minimum` in the eigenvectors' coordinates."""
    gap = values - values[0]
    round_off = torch.finfo(torch.float64).eps * beta.norm(dim=1, keepdim=True)
    beta = torch.where(beta.abs() <= round_off, 0.0, beta)

    lowest = gap == 0
    y = torch.where(lowest, 0.0, beta / torch.where(lowest, 1.0, gap))
    missing = radius2 - y.square().sum(1)
    easy = (beta[:, lowest] != 0).any(1) | (missing < 0)
    y[:, 0] = missing.clamp(min=0).sqrt()
    y[easy] = beta[easy] / (gap + _secular_root(gap, beta[easy], radius2**0.5)[:, None])
    y *= radius2**0.5 / y.norm(dim=1, keepdim=True)
    if solid and values[0] > 0:
        free = beta / values
        inside = free.square().sum(1) < radius2
        y[inside] = free[inside]
    return y


def _secular_root(
    gap: Float[Tensor, "d"], beta: Float[Tensor, "n d"], radius: float
) -> Float[Tensor, "n"]:
    """The t > 0 with |β / (gap + t)| = radius, for each row of β; it must exist.

    Newton on 1/radius − 1/|y(t)|, which is near linear: from the left it never passes the root.
    Where round-off takes it out of its bracket, the bracket's logarithm is bisected.
    """
    high = beta.norm(dim=1) / radius
    low = torch.maximum(beta[:, gap == 0].norm(dim=1) / radius, high * 1e-60)
    t = low
    for _ in range(_SECULAR_STEPS):
        shifted = gap + t[:, None]
        y = beta / shifted
        length = y.norm(dim=1)
        done = (length - radius).abs() <= 1e-13 * radius
        if done.all():
            break
        low = torch.where(length >= radius, t, low)
        high = torch.where(length < radius, t, high)
        slope = (y.square() / shifted).sum(1)
        newton = t + length.square() / slope * (length - radius) / radius
        inside = (newton > low) & (newton < high)
        t = torch.where(done, t, torch.where(inside, newton, (low * high).sqrt()))
    return t
