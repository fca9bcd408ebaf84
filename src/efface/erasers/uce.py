"""UCE: unified concept editing in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models", arXiv 2308.14761, WACV 2024. Every
matrix that reads text is changed to W' = argmin s Σ|W c − v|² + p Σ|W r − W₀ r|² + λ|W − W₀|² with
v = W₀ c* ("replace"), or v = W₀ c* less its part along W₀ c ("tensor").

Deviations from the authors' code: "replace" is solved once as W' = W T with one T for all matrices,
since v is linear in W; "tensor" keeps that shared right factor and one scalar a phrase and matrix.
Algebra in float64 by factorisation, not float32 by inverse. Kept prompts weigh 1 / count in their
paper code, at least 0.1; here that is what each word weighs, the empty prompt 1, and the presets
say all of it by `keep_weight`. As there, the empty prompt is always kept; as in their current code,
it is not under `rows="last"`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.core import Backbone, Concept, Edit, EffaceError, OnStep, PromptMap
from efface.facts import Ruler, summary
from efface.linalg import LowRank, condensed, ridge_map
from efface.patch import Patch
from efface.phrases import fitted, held
from efface.tokens import Pairs, RowPolicy, aligned, check_spoken, each, joined, kept

COMPRESSION = 1e-6
"""Relative spectral error allowed when a map is stored with fewer columns."""


@dataclass(frozen=True)
class UCE:
    """Settings of one closed-form solve."""

    rows: RowPolicy = "last_to_end"
    """Which token rows are erased: last, last_to_end or all."""
    technique: Literal["replace", "tensor"] = "replace"
    """replace: rows become the target's. tensor: what of the target's is orthogonal to them."""
    erase_weight: float = 1.0
    """s, above 0. Higher erases harder and moves neighbours more."""
    keep_weight: float = 1.0
    """p, from 0. Higher holds the kept prompts more firmly."""
    word_weight: float | None = None
    """Weight of each kept word's rows, the empty prompt's 1; none: 1 / their number, 0.1 at least."""
    ridge: float = 0.5
    """λ, above 0. Higher keeps everything nearer to the original, the concept too."""
    reach: float = 1.0
    """Length of the step, above 0: 1 is the solution, more goes past the goal."""

    def __post_init__(self) -> None:
        steps = (self.erase_weight, self.ridge, self.reach)
        weights = (self.keep_weight, self.word_weight or 0.0)
        if min(steps) <= 0 or min(weights) < 0:
            raise EffaceError(
                "erase_weight, ridge and reach must be above 0, keep_weight and word_weight not "
                f"below: {', '.join(map(str, (*steps, *weights)))}"
            )

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """One solve a stream over all phrases; nothing is random."""
        story = {"name": "uce", **asdict(self)}
        maps, edits, facts = list[PromptMap](), list[Edit](), dict[str, Mapping[str, Any]]()
        for i, stream in enumerate(model.streams):
            on_step(f"solving for {stream}", i, len(model.streams))
            blocks = phrase_pairs(model, concept, self.rows, stream)
            keep = kept_rows(model, concept, self.rows, self.weigh(concept), stream)
            edit = self.solve(joined(blocks), keep)
            if self.technique == "tensor":
                right = self.reach * self.erase_weight**0.5 * edit.b
                edits += tensor_edits(model, blocks, right, stream)
                continue
            edit = edit.compress(COMPRESSION)
            maps.append(PromptMap(stream, edit.a.float(), edit.b.float()))
            facts[stream] = Ruler(model, concept, stream).facts(edit)
        on_step("solving", 1, 1)
        measured = summary(facts) if facts else {}
        return Patch(concept, story, model.fingerprint, tuple(maps), tuple(edits), measured)

    def weigh(self, concept: Concept) -> float:
        """What a kept word weighs: more words, each less, as the paper's code weighs prompts."""
        if self.word_weight is not None:
            return self.word_weight
        return max(0.1, 1 / max(1, len(held(concept))))

    def solve(self, pairs: Pairs, keep: Float[Tensor, "k width"]) -> LowRank:
        """T for these rows (section 4.1 of the paper, with W taken out)."""
        solution = ridge_map(
            pairs.rows,
            pairs.goals,
            keep,
            erase_weight=self.erase_weight,
            keep_weight=self.keep_weight,
            ridge=self.ridge,
        )
        return solution.scale(self.reach)


def phrase_pairs(model: Backbone, concept: Concept, policy: RowPolicy, stream: str) -> list[Pairs]:
    """Rows of every phrase to erase with the rows they become, phrase by phrase."""
    check_spoken(model.encode(concept.erase, stream), concept.erase)
    source, target = (model.encode(texts, stream) for texts in zip(*fitted(concept), strict=True))
    return [
        aligned(one, other, policy) for one, other in zip(each(source), each(target), strict=True)
    ]


def concept_pairs(model: Backbone, concept: Concept, policy: RowPolicy, stream: str) -> Pairs:
    """The same, all phrases together."""
    return joined(phrase_pairs(model, concept, policy, stream))


def kept_rows(
    model: Backbone, concept: Concept, policy: RowPolicy, word_weight: float, stream: str
) -> Float[Tensor, "k width"]:
    """Rows to preserve: those of every kept phrase, and of the empty prompt except under `last`.

    A row scaled by √w counts w times in the solve. More rows than the text is wide come condensed.
    """
    empty, *words = each(model.encode(("", *held(concept)), stream))
    rows = [word_weight**0.5 * kept(word, policy) for word in words]
    nothing = kept(empty, policy)
    return condensed(torch.cat([nothing[:0] if policy == "last" else nothing, *rows]))


def tensor_edits(
    model: Backbone, blocks: Sequence[Pairs], right: Float[Tensor, "width n"], stream: str
) -> list[Edit]:
    """W + Lₗ bᵀ with Lₗ = W (C* − (1 + αₗ) C)ᵀ and αₗ = ⟨C Wᵀ, C* Wᵀ⟩ / |C Wᵀ|², per matrix.

    C are the rows of one phrase: each has its own αₗ. Symbols: `right` b = s M⁻¹ Cᵀ of them all.
    """
    edits = []
    for name, weight in model.readers(stream):
        wide = weight.detach().cpu().double()
        left = torch.cat([_orthogonal(pairs, wide) for pairs in blocks]).T
        edits.append(Edit(name, "add", left.float(), right.T.float()))
    return edits


def _orthogonal(pairs: Pairs, weight: Float[Tensor, "out width"]) -> Float[Tensor, "n out"]:
    """How each row's output changes to its goal's less the part along the phrase's own."""
    old, new = pairs.rows.double() @ weight.T, pairs.goals.double() @ weight.T
    share = (old * new).sum() / old.square().sum()
    return new - (1 + share) * old


PRESETS = {
    "paper": UCE(word_weight=1.0),
    "current-code": UCE(rows="last", word_weight=1.0),
    "style": UCE(keep_weight=0.1, word_weight=1.0),
    "within": UCE(rows="all", reach=1.2, word_weight=1.0),
}
"""paper: the published results' code; current-code: the repository today; style: with an artists'
keep list; within, ours: a style as said of things."""
