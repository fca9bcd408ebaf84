"""ItD, interpret then deactivate: a sparse autoencoder finds a concept, gates it, turns it down.

Tian et al., "Sparse Autoencoder as a Zero-Shot Classifier for Concept Erasing in Text-to-Image
Diffusion Models", arXiv 2503.09446. A top-k autoencoder codes what a layer of the text encoder says
(`efface.sae`). With T(p) the K features that are strongest anywhere in a prompt, a concept's are
F = those in T of its prompts and in T of no retained prompt. A prompt says the concept where
turning F down moves it by τ or more; only then F is turned down, by the factor γ
(`efface.gates.features`). No weight changes, and any number of concepts shares one autoencoder.

Deviations from the authors' code: every concept has its own F and τ, where they have one of each
for all. One function scores prompts for calibration and in use; theirs differ (largest over tokens
or mean, γ −6 or −8). It looks at the prompt's own tokens, the start token and padding left out, and
lets the start token's row be, which theirs reconstructs; each prompt is padded as for the plain
model, so no prompt's result depends on others. τ is theirs, `margin` times the least score of the
target prompts, unless more than `false_positives` of retained prompts reach it, put in phrases that
neither the autoencoder learned from nor F was chosen by; theirs has no such bound, and is measured
on what it was chosen by. Entries of T(p) that are zero are left out. The negative prompt passes the
gate too. Nothing is steered toward a target: what a concept becomes is not for this method to say.
γ is lowered for concepts whose own features are weak (`reach`). Whether the error term stays is a
setting; by default it does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from efface.backbone import Layered
from efface.core import Concept, EffaceError, Gate, OnStep, same_base
from efface.gates.features import FeatureGate, Listed, Parts, parts
from efface.patch import Patch
from efface.phrases import PHRASINGS, THINGS, UNUSUAL, evenly, held, said_of
from efface.sae import TopK, load
from efface.sae_own import own
from efface.sae_site import UNREAD, at_depth

SAMPLE = 512
"""Retained prompts that F is chosen against, at most; and as many that τ is chosen by."""


@dataclass(frozen=True)
class ItD:
    """Settings of the choice of features, of the gate, and of what it does."""

    sae: str | None = None
    """Folder of an autoencoder in SAELens' format; none: one learned from the model's own words."""
    layer: int | None = None
    """Layer of the text encoder that is read, from 0; none: three quarters up, as in the paper."""
    top: int = 128
    """K, at least 1: features of a prompt that count as its own. Higher finds more of a concept's
    features, and rules out more as those of retained prompts."""
    factor: float = -8.0
    """γ, below 1: what a concept's features are multiplied by; 0 switches off, lower reverses."""
    reach: float = 3.0
    """Share, from 0, of its squared length that a target prompt's strongest row must move by, on
    average: γ is lowered for a concept whose features are too weak for it; 0 is the paper's."""
    keep_error: bool = True
    """Whether what the autoencoder cannot code stays in a flagged prompt; false is the paper's."""
    margin: float = 0.7
    """τ as a share of the target prompts' least score, above 0. Lower flags what is less alike."""
    false_positives: float = 0.01
    """Share of retained prompts, 0 to 1, that may be flagged; 1 is the paper's: no bound."""

    def __post_init__(self) -> None:
        if self.top < 1 or self.margin <= 0 or self.reach < 0:
            raise EffaceError(
                "top must be at least 1, margin above 0 and reach not below: got "
                f"{self.top}, {self.margin} and {self.reach}"
            )
        if not 0 <= self.false_positives <= 1:
            raise EffaceError(f"false_positives is a share, 0 to 1: got {self.false_positives}")
        if self.factor >= 1:
            raise EffaceError(f"factor must be below 1, where nothing changes: got {self.factor}")

    def fit(self, model: Layered, concept: Concept, rng: Generator, on_step: OnStep) -> Patch:
        """One gate a text encoder; nothing is random."""
        layers = model.text_layers()
        if not layers:
            raise EffaceError(UNREAD)
        gates, facts = list[Gate](), dict[str, Any]()
        for component, sites in layers.items():
            given = None if self.sae is None else Path(self.sae)
            if given is not None and len(layers) > 1:
                given = given / component
            site, sae = self._autoencoder(model, given, sites, on_step)
            gate, facts[component] = self._gate(Reading(model, site, sae), concept, on_step)
            gates.append(gate)
        story = {"name": "itd", **asdict(self)}
        on_step("calibrating", 1, 1)
        return Patch(concept, story, model.fingerprint, gates=tuple(gates), facts={"gates": facts})

    def _autoencoder(
        self, model: Layered, given: Path | None, sites: Sequence[str], on_step: OnStep
    ) -> tuple[str, TopK]:
        """The site of one text encoder, and the autoencoder of it."""
        wanted = at_depth(sites, self.layer)
        if given is None:
            return wanted, own(model, wanted, on_step)
        sae = load(given)
        told = sae.metadata.get("efface")
        reads = told.get("reads") if isinstance(told, Mapping) else None
        site = str(sae.metadata.get("hook_name")) if reads else wanted
        if site not in sites or (self.layer is not None and site != wanted):
            raise EffaceError(f"{given} was learned at {site}, not at {wanted}")
        if isinstance(reads, str) and not same_base(reads, model.reads(site)):
            raise EffaceError(
                f"{given} was learned from another model's {site}: train one on this model"
            )
        return site, sae

    def _gate(
        self, reading: "Reading", concept: Concept, on_step: OnStep
    ) -> tuple[Gate, dict[str, Any]]:
        """The gate of one text encoder, and how its calibration went."""
        on_step("choosing features", 0, 1)
        against = set().union(*reading.strongest(retained(concept), self.top))
        chosen, facts = list[Listed](), dict[str, dict[str, Any]]()
        for phrase in concept.erase:
            prompts = targets(concept, phrase)
            alone = [found - against for found in reading.strongest(prompts, self.top)]
            if not any(alone):
                raise EffaceError(
                    f"no feature of the autoencoder is {phrase!r}'s alone, beside what is kept: "
                    "give one with more features (efface train-sae), or keep fewer phrases"
                )
            features = sorted(set().union(*alone))
            chosen.append(Listed(phrase, features, self._factor(reading, features, prompts), 0.0))
            facts[phrase] = {
                "features": len(features),
                "factor": chosen[-1].factor,
                "prompts with one": sum(map(bool, alone)),
                "prompts": len(prompts),
            }
        on_step("calibrating", 0, 1)
        gate = FeatureGate.build(*self._parts(reading.sae, chosen))
        kept = reading.scores(gate, unseen_retained(concept))
        for i, phrase in enumerate(concept.erase):
            said = reading.scores(gate, unseen_targets(concept, phrase))[:, i]
            threshold = self._threshold(said, kept[:, i], len(chosen))
            chosen[i] = chosen[i]._replace(threshold=threshold)
            facts[phrase] |= {"threshold": threshold, "least": said.min().item()}
            facts[phrase]["missed"] = (said < threshold).float().mean().item()
        limits = kept.new_tensor([c.threshold for c in chosen])
        flagged = (kept >= limits).any(1).float()
        rate = flagged.mean().item() if len(flagged) else None
        site, reads = reading.site, reading.model.reads(reading.site)
        return Gate(site, "features", reads, *self._parts(reading.sae, chosen)), {
            "site": site,
            "false positives": {"value": rate, "n": len(flagged)},
            "concepts": facts,
        }

    def _parts(self, sae: TopK, chosen: Sequence[Listed]) -> Parts:
        return parts(sae, chosen, keep_error=self.keep_error)

    def _factor(self, reading: "Reading", features: list[int], prompts: list[str]) -> float:
        """γ of a concept: as set, or as low as `reach` asks."""
        alone = parts(reading.sae, [Listed("", features, self.factor, 0.0)], keep_error=True)
        moved = reading.scores(FeatureGate.build(*alone), prompts).mean().item()
        heard = reading.model.heard(prompts, reading.site)
        wanted = self.reach * heard.rows[heard.holds].square().mean().item()
        return 1 + (self.factor - 1) * math.sqrt(max(1.0, wanted / max(moved, 1e-12)))

    def _threshold(
        self, said: Float[Tensor, "targets"], kept: Float[Tensor, "retained"], concepts: int
    ) -> float:
        """τ of one of `concepts`, which share the bound on false positives."""
        least = self.margin * said.min().item()
        allowed = int(self.false_positives / concepts * len(kept))
        if allowed >= len(kept):
            return least
        first = kept.sort(descending=True).values[allowed]  # must not be flagged
        above = torch.nextafter(first, first.new_tensor(math.inf)).item()
        return max(least, above)


class Reading(NamedTuple):
    """A site of a model, read through an autoencoder."""

    model: Layered
    site: str
    sae: TopK

    def strongest(self, prompts: Sequence[str], top: int) -> list[set[int]]:
        """T(p) of each prompt: its `top` features of largest value over its tokens, above zero."""
        heard = self.model.heard(prompts, self.site)
        found = list[set[int]]()
        for rows, spoken in zip(heard.rows, heard.holds, strict=True):
            code = self.sae.encode(rows[spoken])
            pooled = rows.new_zeros(len(self.sae.b_enc))
            pooled.scatter_reduce_(0, code.at.flatten(), code.values.flatten(), "amax")
            count = min(top, int((pooled > 0).sum()))
            found.append(set(pooled.topk(count).indices.tolist()))
        return found

    def scores(
        self, gate: FeatureGate, prompts: Sequence[str]
    ) -> Float[Tensor, "prompts concepts"]:
        """How strongly each prompt says each concept, as the gate in use scores it."""
        if not prompts:
            return torch.zeros(0, len(gate.concepts))
        heard = self.model.heard(prompts, self.site)
        return torch.stack([gate.scores(r, h) for r, h in zip(*heard, strict=True)])


def targets(concept: Concept, phrase: str) -> list[str]:
    """How a phrase to erase is said when its features are chosen."""
    things = evenly(concept.within, THINGS)
    return [*(said_of(t, phrase) for t in things), *(p.format(phrase) for p in PHRASINGS)]


def retained(concept: Concept) -> list[str]:
    """What features must not be of: all that is kept, as it is named and as a fit holds it."""
    named = [p.format(k) for k in concept.keep for p in PHRASINGS]
    return list(evenly(["", *named, *(held(concept) if concept.within else ())], SAMPLE))


def unseen_targets(concept: Concept, phrase: str) -> list[str]:
    """How a phrase to erase is said when τ is chosen."""
    return [*targets(concept, phrase), *(p.format(phrase) for p in UNUSUAL)]


def unseen_retained(concept: Concept) -> list[str]:
    """Retained prompts in phrases of their own, one word and two: for τ and its false positives."""
    kept = concept.keep
    pairs = list(zip(kept, [*kept[1:], *kept[:1]], strict=True))
    two = [UNUSUAL[0].format(f"{one} and a {other}") for one, other in pairs if one != other]
    return list(evenly([*(p.format(k) for k in kept for p in UNUSUAL), *two], SAMPLE))


PRESETS = {
    "paper": ItD(reach=0.0, keep_error=False, margin=0.99, false_positives=1.0),
}
"""paper: the released settings where they can be had: K 128, γ −8, no bound on false positives."""
