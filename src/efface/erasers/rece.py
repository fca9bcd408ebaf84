"""RECE: reliable and efficient concept erasure, UCE repeated against the embeddings that undo it.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
arXiv 2407.12383, ECCV 2024. Each epoch derives the embedding that the edited model turns into the
concept (their section 4.2) and erases that too (section 4.3). Besides the paper's regularised
derivations there is ours, the exact adversary: the worst embedding on the ellipsoid that the text
encoder's rows lie on (see `efface.certificate`), which has no strength to choose.

Deviations from the authors' code: the UCE start is computed here, not loaded from a file. All
matrices share one map T, the derivation needs only G = Σ WᵀW, and algebra is in float64. No
picture is drawn to choose an epoch: by default epochs are added until the certificate passes or
drift on the kept prompts reaches its budget, and the patch says which. Their fixed epochs, weights
and targets are the presets. A later epoch of theirs partly brings back what the start erased; here
what was erased is held (`hold_weight`; the presets keep their 0). The empty prompt is kept once;
their nudity and unsafe scripts keep it once per phrase: `keep_weight` times the number of phrases
does the same. Their `close_standardreg` without an old target silently becomes `close_surrogatereg
both`; here each is what its name says.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Backbone
from efface.core import Concept, EffaceError, OnStep, PromptMap
from efface.erasers.uce import COMPRESSION, UCE, concept_pairs, kept_rows
from efface.facts import Ruler, summary
from efface.linalg import (
    LowRank,
    condensed,
    derive_regzero,
    derive_standardreg,
    derive_surrogatereg,
    ridge_map,
)
from efface.patch import Patch
from efface.phrases import fuller
from efface.tokens import Pairs, RowPolicy, aligned

Derivation = Literal["exact", "regzero", "standardreg", "surrogate1", "surrogate2", "surrogate12"]


@dataclass(frozen=True)
class RECE:
    """Settings of the start (one UCE solve) and of the epochs after it."""

    derivation: Derivation = "exact"
    """How the next embedding is found: exact (ours), regzero (the paper's), or an ablation."""
    mu: float = 0.1
    """Regulariser of the paper's derivations, above 0; lower dares more. Exact has none."""
    epochs: int | None = None
    """How many; none means: until the certificate passes or the drift budget is spent."""
    certificate: float = 0.5
    """Without `epochs`: stop when the least certificate over rows is at least this (0 to 1)."""
    drift: float = 0.02
    """Without `epochs`: refuse an epoch that moves kept prompts by more than this share."""
    keep_weight: float = 0.1
    """p in the epochs, from 0. Higher holds the kept prompts more firmly."""
    word_weight: float = 0.03
    """Weight of each kept word's rows against the empty prompt's, from 0; 1 is the paper's code."""
    manner_weight: float = 3.0
    """Weight, from 0, of what a kept manner ("cat, twitter style") adds to its thing's rows."""
    hold_weight: float = 1.0
    """Weight, from 0, that holds where it is what earlier epochs erased; 0 is the paper's code."""
    ridge: float = 100.0
    """λ in the epochs, above 0; rows have about their width as square. Higher: smaller epochs."""
    start_rows: RowPolicy = "last_to_end"
    """Token rows erased by the start: last, last_to_end or all."""
    start_keep_weight: float = 1.0
    """p of the start."""
    start_ridge: float = 20.0
    """λ of the start."""
    start_reach: float = 1.0
    """Length of the start's step, above 0: 1 is the solution, more goes past the goal."""

    def __post_init__(self) -> None:
        steps = (self.mu, self.ridge, self.start_ridge, self.start_reach)
        if min(steps) <= 0:
            raise EffaceError(
                "mu, ridge, start_ridge and start_reach must be above 0: got "
                f"{', '.join(map(str, steps))}"
            )
        weights = (self.keep_weight, self.start_keep_weight, self.word_weight)
        if min(*weights, self.manner_weight, self.hold_weight, self.drift, self.epochs or 0) < 0:
            raise EffaceError("RECE's weights, drift and epochs must not be below 0")

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The start, then epochs, stream by stream; nothing is random."""
        maps, facts = list[PromptMap](), dict[str, Mapping[str, Any]]()
        for stream in model.streams:
            edit, facts[stream] = self._fit(model, concept, stream, on_step)
            maps.append(PromptMap(stream, edit.a.float(), edit.b.float()))
        story: dict[str, Any] = {"name": "rece", **asdict(self)}
        on_step("epoch", 1, 1)
        return Patch(concept, story, model.fingerprint, tuple(maps), facts=summary(facts))

    def _fit(
        self, model: Backbone, concept: Concept, stream: str, on_step: OnStep
    ) -> tuple[LowRank, dict[str, Any]]:
        """The map of one stream and what was measured of it."""
        on_step("encoding prompts", 0, 1)
        start = UCE(
            rows=self.start_rows,
            keep_weight=self.start_keep_weight,
            word_weight=self.word_weight,
            ridge=self.start_ridge,
            reach=self.start_reach,
        )
        words = self._kept(model, concept, start.rows, stream)
        edit = start.solve(concept_pairs(model, concept, start.rows, stream), words)
        if start.rows == "last":
            words = self._kept(model, concept, "all", stream)
        pairs = concept_pairs(model, concept, "all", stream)
        keep = self.keep_weight**0.5 * words
        hold = self.hold_weight**0.5 * pairs.rows.double()
        ruler = Ruler(model, concept, stream)
        done = 0
        while not (stopped := self._enough(done, ruler, edit)):
            on_step("epoch", done, self.epochs or LONGEST)
            derived = self._derive(edit, ruler, pairs)
            step = self._erase(derived, torch.cat([keep, hold]))
            further = edit.compose(step).compress(COMPRESSION)
            if self.epochs is None and (ruler.drift(further) or 0) > self.drift:
                already = (ruler.drift(edit) or 0) > self.drift
                stopped = "the start already drifts" if already else "another epoch would drift"
                stopped += f" beyond {self.drift}"
                break
            edit, done = further, done + 1
            hold = torch.cat([hold, self.hold_weight**0.5 * derived.rows])
        edit = edit if done else edit.compress(COMPRESSION)
        return edit, {**ruler.facts(edit), "epochs": done, "stopped": stopped}

    def _kept(
        self, model: Backbone, concept: Concept, policy: RowPolicy, stream: str
    ) -> Float[Tensor, "k width"]:
        """Rows to preserve, and what manners add to the rows of things: differences, so small.

        T is linear: holding a difference holds the manner, wherever the thing itself may go.
        """
        rows = kept_rows(model, concept, policy, self.word_weight, stream)
        if not (pairs := fuller(concept)) or not self.manner_weight or policy == "last":
            return rows
        more, less = (model.encode(texts, stream) for texts in zip(*pairs, strict=True))
        said, bare = aligned(more, less, "all")
        return condensed(torch.cat([rows, self.manner_weight**0.5 * (said - bare).double()]))

    def _enough(self, done: int, ruler: Ruler, edit: LowRank) -> str:
        """Why no further epoch is needed; empty where one is."""
        if self.epochs is not None:
            return "the epochs asked for were done" if done == self.epochs else ""
        if done == LONGEST:
            return f"{LONGEST} epochs were done, the certificate still below {self.certificate}"
        least = ruler.certificate(edit).min
        if least is not None and least >= self.certificate:
            return f"the certificate reached {self.certificate}"
        return ""

    def _derive(self, edit: LowRank, ruler: Ruler, pairs: Pairs) -> Pairs:
        """The embeddings that bring the concept back, each with the goal of its row (Eq. 6-9)."""
        rows, goals = pairs.rows.double(), pairs.goals.double()
        gram = ruler.gram
        match self.derivation:
            case "exact":
                found = ruler.adversary(edit).certificate(rows, goals)
                return Pairs(found.embeddings, goals[found.rows])
            case "regzero":
                derived = derive_regzero(edit, gram, rows, self.mu)
            case "standardreg":
                derived = derive_standardreg(edit, gram, rows, goals, self.mu)
            case "surrogate1":
                derived = derive_surrogatereg(edit, gram, rows, self.mu, "1st")
            case "surrogate2":
                derived = derive_surrogatereg(edit, gram, rows, self.mu, "2nd")
            case "surrogate12":
                derived = derive_surrogatereg(edit, gram, rows, self.mu, "both")
        return Pairs(derived, goals)

    def _erase(self, pairs: Pairs, keep: Float[Tensor, "k d"]) -> LowRank:
        """One UCE solve on the current weights, whose outputs the goals are too (Eq. 10).

        The rows of `keep` carry their weights.
        """
        return ridge_map(
            pairs.rows,
            pairs.goals,
            keep,
            erase_weight=1.0,
            keep_weight=1.0,
            ridge=self.ridge,
        )


LONGEST = 10
"""Epochs after which the automatic mode gives up."""

_THEIRS = RECE(
    "regzero", word_weight=1.0, manner_weight=0.0, hold_weight=0.0, ridge=0.1, start_ridge=0.5
)

PRESETS = {
    "nudity": replace(_THEIRS, mu=0.1, epochs=3),
    "unsafe": replace(_THEIRS, mu=0.1, epochs=2),
    "style": replace(_THEIRS, mu=1e-3, epochs=1, start_keep_weight=0.1),
    "hard-object": replace(_THEIRS, mu=1e-3, epochs=1),
    "easy-object": replace(_THEIRS, mu=0.1, epochs=1),
    "within": RECE(epochs=1, word_weight=1.0, start_rows="all", start_ridge=0.5, start_reach=1.2),
}
"""The paper's settings by task (its section 5 and the released scripts); within, ours: a style as
said of things."""
