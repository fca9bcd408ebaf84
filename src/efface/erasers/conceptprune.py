"""ConceptPrune: zero the feed-forward weights that a concept uses more than its absence does.

Chavhan, Li and Hospedales, "ConceptPrune: Concept Editing in Diffusion Models via Skilled Neuron
Pruning", arXiv 2405.19237, ICLR 2025, with the score of Wanda (arXiv 2306.11695): a weight of a
block's second feed-forward matrix scores S_ij = |W_ij| ‖X_j‖, the norm over all tokens of what it
reads, itself at length 1 a token. Prompts with and without the concept are drawn from the same
noise. A weight is the concept's at a sampler call if it is among its row's top share by the
concept's score and scores higher than without; a weight that is at enough of the first calls is
set to zero. Nothing is trained.

Deviations from the authors' code, read for its formulas alone (it has no licence): the prompts are
ours. A concept is paired with kept things ("a house" and "a cat"; `against` "scenes" pairs scenes
with the concept in them, as theirs); a style with the same things without it. A row's share is
rounded up. Drawings are DDIM's, at times that lie anywhere in a step. The patch is a mask, a byte a
weight. Where the zeros are gives the concept away (Roots Beneath the Cut, arXiv 2603.06640): who
has the patch or both models knows which weights to restore.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from efface.backbone import Backbone, Denoiser
from efface.backbones.fingerprint import roundings
from efface.core import Concept, Edit, EffaceError, OnStep
from efface.lesson import seed_of
from efface.moments import draw, say
from efface.patch import Patch
from efface.phrases import evenly, said_of
from efface.tokens import check_spoken

SECOND = ".ff.net.2.weight"
"""How the second feed-forward matrix of a transformer block is named."""
SCENES = (
    "street", "garden", "kitchen", "forest", "beach", "field", "room", "park", "desert", "harbour",
    "village", "market", "station", "library", "valley", "courtyard",
)  # fmt: skip
"""Places without the concept, for `against` "scenes"."""


@dataclass(frozen=True)
class ConceptPrune:
    """Settings of the search for a concept's weights."""

    ratio: float = 0.02
    """ρ, above 0 to 1: share of each row's weights that may be the concept's at one call."""
    against: Literal["kept", "scenes"] = "kept"
    """What the concept is told from: kept things, or scenes that it is put into (the paper)."""
    pairs: int = 16
    """Pairs of drawings, from 1. More are steadier and take longer."""
    calls: int = 10
    """τ, from 1: of a drawing, the first sampler calls that are looked at; more prune more."""
    agreeing: float = 0.0
    """Share of the calls, 0 to below 1, that must be exceeded; 0, any one call, prunes most."""
    drawing_steps: int = 50
    """Steps of a drawing, at least `calls`."""
    drawing_guidance: float = 7.5
    """Guidance of the drawings."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or not 0 <= self.agreeing < 1:
            raise EffaceError(
                "ratio must be above 0 and at most 1, agreeing at least 0 and below 1: got "
                f"{self.ratio}, {self.agreeing}"
            )
        if min(self.pairs, self.calls) < 1 or self.drawing_steps < self.calls:
            raise EffaceError(
                "pairs and calls must be at least 1, drawing_steps at least calls: got "
                f"{self.pairs}, {self.calls}, {self.drawing_steps}"
            )

    def fit(self, model: Backbone, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """The weights that stay; `toward` has no part in the method."""
        concept = replace(concept, toward=("",))
        denoiser = model.denoiser()
        names = [n for n in denoiser.names() if n.endswith(SECOND)]
        if not names:
            raise EffaceError(
                "ConceptPrune prunes the second linear layer of feed-forward networks, and this "
                "denoiser has none: erase with rece or esd"
            )
        without, within = self.prompts(concept)
        check_spoken(model.encode(within, model.streams[0]), within)
        seed = seed_of(rng)
        base = self._norms(model, denoiser, without, names, seed, on_step)
        target = self._norms(model, denoiser, within, names, seed, on_step)
        edits = list[Edit]()
        for i, name in enumerate(names):
            on_step("scoring", i, len(names))
            weight = denoiser.weight(name).detach()
            skilled = self.skilled(weight, target[name], base[name])
            edits.append(Edit(name, "mul", ~skilled.cpu(), reads=roundings([weight])))
        on_step("scoring", 1, 1)
        zeros = {e.param: 1 - e.a.float().mean().item() for e in edits}
        count, size = sum(int((~e.a).sum()) for e in edits), sum(e.a.numel() for e in edits)
        facts = {"zeros": count / size, "pruned": count, "of": size, "layers": zeros}
        story = {"name": "conceptprune", **asdict(self)}
        return Patch(concept, story, model.fingerprint, edits=tuple(edits), facts=facts)

    def prompts(self, concept: Concept) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Prompts without the concept, and those of the same numbers with it (section 3)."""
        named = [concept.erase[i % len(concept.erase)] for i in range(self.pairs)]
        if concept.within:
            things = evenly(concept.within, self.pairs)
            said = [things[i % len(things)] for i in range(self.pairs)]
            styled = [said_of(t, s) for t, s in zip(said, named, strict=True)]
            return tuple(said_of(t, "") for t in said), tuple(styled)
        if self.against == "scenes":
            places = [SCENES[i % len(SCENES)] for i in range(self.pairs)]
            shown = [f"a {c} in a {p}" for c, p in zip(named, places, strict=True)]
            return tuple(f"a {p}" for p in places), tuple(shown)
        others = [f"a {k}" for k in evenly(concept.keep, self.pairs)] or [""]
        return tuple(others[i % len(others)] for i in range(self.pairs)), tuple(
            f"a {c}" for c in named
        )

    def _norms(
        self,
        model: Backbone,
        denoiser: Denoiser,
        prompts: Sequence[str],
        names: Sequence[str],
        seed: int,
        on_step: OnStep,
    ) -> dict[str, Float[Tensor, "calls width"]]:
        """‖X_j‖ at every call of drawings from this seed's noise."""
        with listening(denoiser, names, self.calls) as found:
            draw(
                denoiser,
                say(model, prompts),
                say(model, [""] * len(prompts)),
                torch.arange(len(prompts)),
                steps=self.drawing_steps,
                guidance=self.drawing_guidance,
                rng=Generator().manual_seed(seed),
                on_step=on_step,
                first_steps=self.calls,
            )
        return {name: squares.sqrt() for name, squares in found.items()}

    def skilled(
        self,
        weight: Float[Tensor, "out width"],
        target: Float[Tensor, "calls width"],
        base: Float[Tensor, "calls width"],
    ) -> Bool[Tensor, "out width"]:
        """The concept's weights: at more than the agreeing share of calls, K_ij (Eq. 4 and 5)."""
        count = math.ceil(self.ratio * weight.shape[1])
        votes = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
        size = weight.float().abs()
        for ours, theirs in zip(target.float(), base.float(), strict=True):
            scores = size * ours
            best = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
            top = torch.zeros_like(votes).scatter_(1, best, 1)
            votes += top * (scores > size * theirs)
        return votes > self.agreeing * len(target)


@contextmanager
def listening(
    denoiser: Denoiser, names: Sequence[str], calls: int
) -> Iterator[Mapping[str, Float[Tensor, "calls width"]]]:
    """While the denoiser draws, sum over tokens what each layer reads, squared, tokens at length 1.

    Both halves of guided predictions count, as in the released code.
    """
    found = {
        name: denoiser.weight(name).new_zeros(
            calls, denoiser.weight(name).shape[1], dtype=torch.float32
        )
        for name in names
    }
    count = -1

    def begin(module: Any, args: Any, named: Any) -> None:
        nonlocal count
        count += 1

    def heard(name: str) -> Any:
        def listen(module: Any, args: Any) -> None:
            rows = args[0].detach().float().flatten(0, -2)
            squares = torch.nn.functional.normalize(rows, dim=1).square()
            found[name][count % calls] += squares.sum(0)

        return listen

    handles = [denoiser.module.register_forward_pre_hook(begin, with_kwargs=True)]
    for name in names:
        site = name.partition("/")[2].removesuffix(".weight")
        layer = denoiser.module.get_submodule(site)
        handles.append(layer.register_forward_pre_hook(heard(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


PRESETS = {"paper": ConceptPrune(against="scenes", pairs=12)}
"""The released code's settings for objects; theirs for styles is ratio 0.01."""
