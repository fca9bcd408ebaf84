"""SPEED: many concepts at once, by a map that is blind to what is kept.

Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models",
arXiv 2503.07392, ICLR 2026. The change of a matrix, W Δ, is confined to the directions that kept
prompts leave free, Δ = Δ P with P the projector on the eigenvectors of the kept rows' mean Gram
matrix whose eigenvalues are small, and leaves some rows K₂ of the empty prompt exactly where they
are. With S_tt and S_at the means of c cᵀ and a cᵀ over erased rows c and their goals a,
Δ = (S_at − S_tt) P [I − M K₂ (K₂ᵀ P M K₂ + l I)⁻¹ K₂ᵀ P] M with M = (S_tt P + k I)⁻¹.

Deviations from the authors' code: keys and values share one map, theirs edits values, layer by
layer. Kept rows are filtered as theirs (those that a plain edit would move by more than the mean),
measured over all matrices by G = Σ WᵀW; their noisy copies of kept rows along a layer's weakest
direction are left out, since a shared map has no such direction. K₂ are the start token and three
of the empty prompt's other rows, evenly taken and not by k-means. Rows are the last word's to the
end by default, theirs are the last word's. `free` is a share of the mean eigenvalue, theirs 0.1 in
the units of one model's text. Algebra in float64.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.core import Concept, EffaceError, OnStep, PromptMap
from efface.erasers.uce import COMPRESSION, concept_pairs
from efface.facts import Ruler, summary
from efface.linalg import LowRank
from efface.patch import Patch
from efface.phrases import held
from efface.tokens import Pairs, RowPolicy, kept

FIXED = 4
"""Rows of the empty prompt that stay exactly where they are."""


@dataclass(frozen=True)
class SPEED:
    """Settings of one solve."""

    rows: RowPolicy = "last_to_end"
    """Which token rows are erased and kept: last, last_to_end or all."""
    free: float = 0.03
    """Directions with less than this share of the kept rows' mean eigenvalue are free to change."""
    filtered: bool = False
    """Whether kept rows that a plain edit would hardly move are left out."""
    ridge: float = 0.1
    """k, above 0. Higher makes the edit smaller."""
    fix_ridge: float = 0.0
    """l, from 0: how loosely the empty prompt's rows are held; 0 holds them exactly."""

    def __post_init__(self) -> None:
        if self.ridge <= 0 or min(self.free, self.fix_ridge) < 0:
            raise EffaceError(
                "ridge must be above 0, free and fix_ridge not below: got "
                f"{self.ridge}, {self.free}, {self.fix_ridge}"
            )

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """One solve a stream; nothing is random."""
        maps, facts = list[PromptMap](), dict[str, Mapping[str, Any]]()
        for i, stream in enumerate(model.streams):
            on_step(f"solving for {stream}", i, len(model.streams))
            ruler = Ruler(model, concept, stream)
            pairs = concept_pairs(model, concept, self.rows, stream)
            words = held(concept)
            retain = kept(model.encode(words or [""], stream), self.rows)
            empty = kept(model.encode([""], stream), "all")
            fixed = empty[torch.linspace(0, len(empty) - 1, min(FIXED, len(empty))).long()]
            projector = self.projector(pairs, retain, ruler.gram)
            edit = self.solve(pairs, projector, fixed).compress(COMPRESSION)
            maps.append(PromptMap(stream, edit.a.float(), edit.b.float()))
            rank = int(projector.diagonal().sum().round())
            facts[stream] = {**ruler.facts(edit), "free": rank}
        on_step("solving", 1, 1)
        story = {"name": "speed", **asdict(self)}
        return Patch(concept, story, model.fingerprint, tuple(maps), facts=summary(facts))

    def projector(
        self, pairs: Pairs, retain: Float[Tensor, "k width"], gram: Float[Tensor, "width width"]
    ) -> Float[Tensor, "width width"]:
        """P: on what the kept rows that matter leave free (sections 3.2 and 3.3)."""
        rows, wide = retain.double(), pairs.rows.double()
        if self.filtered:
            probe = torch.eye(wide.shape[1], dtype=torch.float64) + wide.T @ wide / len(wide)
            moved = torch.linalg.solve(probe, rows.T)
            off = (pairs.goals.double() - wide).T @ (wide @ moved) / len(wide)
            size = ((gram @ off) * off).sum(0).clamp(min=0).sqrt()
            rows = rows[size >= size.mean()]
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        spare = vectors[:, values < self.free * values.mean()]
        return spare @ spare.T

    def solve(
        self,
        pairs: Pairs,
        projector: Float[Tensor, "width width"],
        fixed: Float[Tensor, "f width"],
    ) -> LowRank:
        """T = I + Δ (section 3.4)."""
        rows, goals, k2 = pairs.rows.double(), pairs.goals.double(), fixed.double().T
        eye = torch.eye(rows.shape[1], dtype=torch.float64)
        m = torch.linalg.inv(rows.T @ rows / len(rows) @ projector + self.ridge * eye)
        inner = k2.T @ projector @ m @ k2 + self.fix_ridge * torch.eye(k2.shape[1]).double()
        hold = eye - m @ k2 @ torch.linalg.pinv(inner, rtol=1e-10) @ k2.T @ projector
        right = rows @ projector @ hold @ m
        return LowRank((goals - rows).T / len(rows), right.T)


PRESETS = {"few": SPEED(filtered=True, ridge=1.0)}
"""few: the released code's weights for a few concepts; the defaults are nearer to its many."""
