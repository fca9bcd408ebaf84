"""UCE: unified concept editing in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models", arXiv 2308.14761, WACV 2024. Every matrix
that reads text is changed to W' = argmin s Σ|W c − v|² + p Σ|W r − W₀ r|² + λ|W − W₀|² with v = W₀ c*
("replace"), or v = W₀ c* less its part along W₀ c ("tensor").

Deviations from the authors' code: "replace" is solved once as W' = W T with one T for all matrices,
since v is linear in W; "tensor" keeps that shared right factor and one scalar a matrix. Algebra in
float64 by factorisation, not float32 by inverse. Kept prompts weigh 1 / count in their code, at least 0.1;
here `keep_weight` says it.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Generator, Tensor

from efface.core import Backbone, Concept, Edit, OnStep, PromptMap
from efface.linalg import LowRank, ridge_map
from efface.facts import measure
from efface.patch import Patch
from efface.tokens import Pairs, RowPolicy, aligned, check_spoken, kept

COMPRESSION = 1e-6
"""Relative spectral error allowed when a map is stored with fewer columns."""


@dataclass(frozen=True)
class UCE:
    """Settings of one closed-form solve."""

    rows: RowPolicy = "last_to_end"
    """Which token rows are erased: last, last_to_end or all."""
    technique: Literal["replace", "tensor"] = "replace"
    """replace: rows become the target's. tensor: rows become what of the target is orthogonal to them."""
    erase_weight: float = 1.0
    """s, above 0. Higher erases harder and moves neighbours more."""
    keep_weight: float = 1.0
    """p, from 0. Higher holds the kept prompts more firmly."""
    ridge: float = 0.5
    """λ, above 0. Higher keeps everything nearer to the original, the concept too."""

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """One solve over all phrases; nothing is random."""
        on_step("encoding prompts", 0, 2)
        pairs = concept_pairs(model, concept, self.rows)
        keep = kept_rows(model, concept, self.rows)
        on_step("solving", 1, 2)
        edit = self.solve(pairs, keep)
        story = {"name": "uce", **asdict(self)}
        if self.technique == "tensor":
            edits = tensor_edits(model, pairs, edit.b)
            return Patch(concept, story, model.fingerprint, edits=edits)
        edit = edit.compress(COMPRESSION)
        maps = (PromptMap("text", edit.a.float(), edit.b.float()),)
        facts = measure(model, concept, edit, model.gram())
        on_step("solving", 2, 2)
        return Patch(concept, story, model.fingerprint, maps, facts=facts)

    def solve(self, pairs: Pairs, keep: Float[Tensor, "k width"]) -> LowRank:
        """T for these rows (section 4.1 of the paper, with W taken out)."""
        return ridge_map(
            pairs.rows,
            pairs.goals,
            keep,
            erase_weight=self.erase_weight,
            keep_weight=self.keep_weight,
            ridge=self.ridge,
        )


def concept_pairs(model: Backbone, concept: Concept, policy: RowPolicy) -> Pairs:
    """Rows of every phrase to erase with the rows they become."""
    source = model.encode(concept.erase)
    check_spoken(source, concept.erase)
    return aligned(source, model.encode(concept.goals()), policy)


def kept_rows(model: Backbone, concept: Concept, policy: RowPolicy) -> Float[Tensor, "k width"]:
    """Rows to preserve: the empty prompt's always, and those of every kept phrase."""
    return kept(model.encode(("", *concept.keep)), policy)


def tensor_edits(
    model: Backbone, pairs: Pairs, right: Float[Tensor, "width n"]
) -> tuple[Edit, ...]:
    """W + W Lₗ bᵀ with Lₗ = (C* − (1 + αₗ) C)ᵀ and αₗ = ⟨C Wᵀ, C* Wᵀ⟩ / |C Wᵀ|², per matrix."""
    edits = []
    for name, weight in model.readers():
        wide = weight.detach().cpu().double()
        old, new = pairs.rows.double() @ wide.T, pairs.goals.double() @ wide.T
        share = (old * new).sum() / old.square().sum()
        left = (new - (1 + share) * old).T
        edits.append(Edit(name, "add", left.float(), right.T.float()))
    return tuple(edits)


PRESETS = {
    "paper": UCE(),
    "current-code": UCE(rows="last"),
    "style": UCE(keep_weight=0.1),
}
"""paper: the published results' code; current-code: the repository today; style: with an artists' keep list."""
