"""Greedy coordinate gradient: tokens that the text encoder reads as the concept.

Zou et al., arXiv:2307.15043, algorithm 1, on the objective of MMA-Diffusion (arXiv:2311.17516,
section 4.1): min over p* of 1 − cos(τ(p*), τ(p)), τ the row of the end token. A step asks for the
gradient in one-hot tokens, takes from the most promising replacements of each token some at random,
and keeps the best of these. The concept's own tokens are left out. The denoiser is never called:
τ(p) is the base's encoder's, τ(p*) the erased model's, which a gate or training may have changed.

Deviations from the authors' code: the target is the prompt that is attacked, or one of the user's;
of MMA-Diffusion's lists of words and targets nothing is used, nor its attack on safety checkers.
Candidates that do not survive decoding are not compared, and of all steps the best are drawn.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Generator as Rng
from torch import Tensor
from torch.nn.functional import cosine_similarity

from efface.attacks import Access
from efface.backbone import Backbone
from efface.core import Case, Concept, EffaceError, Verdict
from efface.safety import REFUSED, about, refused
from efface.slots import Slots, reader_of, table


@dataclass(frozen=True)
class GCG:
    """Search once a root, then draw the best prompts found."""

    access: ClassVar[Access] = "text"
    from_picture: ClassVar[bool] = False

    target: str | None = None
    """Prompt that is to be met; none: the case's own."""
    length: int = 20
    """Tokens of the prompt, above 0. Raising it widens the space."""
    iterations: int = 1000
    """Steps, above 0. Raising it searches longer."""
    replacements: int = 256
    """Most promising tokens of each place, above 0, of which candidates are made."""
    candidates: int = 512
    """Prompts compared in a step, above 0. Raising it finds better ones and takes longer."""
    tries: int = 1
    """Prompts drawn a root, best first, above 0. More hit more."""

    def __post_init__(self) -> None:
        counts = (self.length, self.iterations, self.replacements, self.candidates, self.tries)
        if min(counts) <= 0:
            raise EffaceError(
                "length, iterations, replacements, candidates and tries must be above 0"
            )
        if refused(self.target or ""):
            raise EffaceError(f"the target is {REFUSED}")

    def run(
        self, erased: Backbone, base: Backbone, concept: Concept, case: Case, rng: Rng
    ) -> Generator[Case, Verdict, None]:
        reader, wanted = reader_of(erased), self.target or case.prompt
        if refused(wanted, about(concept.erase)):
            raise EffaceError(f"the target is {REFUSED}")
        length = min(self.length, reader.length - 2)
        slots = Slots(erased, reader.vocabulary[:1].expand(length), torch.arange(length))
        said = base.encode([wanted])
        goal = said.states[0, said.last[0, 0] + 1]  # the end token's
        shunned = torch.cat([reader.words(phrase) for phrase in concept.erase])
        barred = torch.isin(slots.vocabulary, shunned)
        usable, known = (~barred).nonzero()[:, 0], table(erased)
        words = usable[torch.randint(len(usable), (1, length), generator=rng)]
        found = dict[str, float]()
        for _ in range(self.iterations):
            grad = gradient(slots, known[words.to(known.device)], goal)
            promise = (grad @ known.T).cpu().masked_fill(barred, torch.inf)
            best = promise.topk(min(self.replacements, len(usable)), largest=False).indices
            others = self._candidates(words, best, rng)
            texts = [slots.prompt(slots.vocabulary[w]) for w in others]
            if whole := [i for i, text in enumerate(texts) if text is not None]:
                rows = reader.rows(slots.filled(slots.vocabulary[others[whole]]))[:, -1].cpu()
                losses = 1 - cosine_similarity(rows, goal[None])
                at = int(losses.argmin())
                words = others[whole[at]][None]
                found.setdefault(str(texts[whole[at]]), losses[at].item())
        for prompt in sorted(found, key=found.__getitem__)[: self.tries]:
            yield replace(case, prompt=prompt)

    def _candidates(
        self, words: Int[Tensor, "1 length"], best: Int[Tensor, "length most"], rng: Rng
    ) -> Int[Tensor, "n length"]:
        """Tokens with one replaced by one of its place's best."""
        count = self.candidates
        places = torch.randint(words.shape[1], (count,), generator=rng)
        ranks = torch.randint(best.shape[1], (count,), generator=rng)
        others = words.repeat(count, 1)
        others[torch.arange(count), places] = best[places, ranks]
        return others


def gradient(
    slots: Slots, rows: Float[Tensor, "1 places width"], goal: Float[Tensor, "width"]
) -> Float[Tensor, "places width"]:
    """Of 1 − cos in the embeddings of a prompt's tokens."""
    rows = rows.requires_grad_()
    said = slots.say(rows)["text"]
    loss = 1 - cosine_similarity(said.states[0, said.last[0, 0] + 1], goal, dim=0)
    [[grad]] = torch.autograd.grad(loss, rows)
    return grad


PRESETS = {
    "small": GCG(length=8, iterations=30, replacements=64, candidates=64, tries=4),
    "medium": GCG(length=16, iterations=200, candidates=256, tries=4),
    "paper": GCG(),
}
