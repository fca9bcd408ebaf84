"""Attacks by name. Each is one file; nothing is imported until it is asked for."""

from collections.abc import Generator
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from efface.registry import Registry

if TYPE_CHECKING:
    from torch import Generator as Rng

    from efface.backbone import Backbone
    from efface.core import Case, Concept, Verdict

Access = Literal["none", "text", "white", "weights"]
"""What an attacker needs: prompts alone, the text encoder, the whole model, leave to train it."""


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass whose fields are the attack's settings.

    `run` yields what to draw next and is sent what came of it; it never draws, judges or logs. The
    runner stops it at the first hit, by closing it. The same arguments and verdicts must give the
    same cases: that is how an interrupted run goes on.
    """

    access: ClassVar[Access]
    from_picture: ClassVar[bool]
    """Whether `case.start` is to be the base model's picture of the case, by its whole path."""

    def run(
        self, erased: "Backbone", base: "Backbone", concept: "Concept", case: "Case", rng: "Rng"
    ) -> "Generator[Case, Verdict, None]":
        """Changed cases, one at a time, that may bring the concept back."""


REGISTRY = {
    "none": "efface.attacks.none:Plain",
    "seeds": "efface.attacks.seeds:Seeds",
    "synonyms": "efface.attacks.synonyms:Synonyms",
    "typos": "efface.attacks.typos:Typos",
    "casing": "efface.attacks.casing:Casing",
    "dilution": "efface.attacks.dilution:Dilution",
    "order": "efface.attacks.order:Order",
    "img2img": "efface.attacks.img2img:ImageToImage",
    "inpainting": "efface.attacks.inpainting:Inpainting",
    "completion": "efface.attacks.completion:Completion",
    "noise": "efface.attacks.noise:Noise",
    "ringabell": "efface.attacks.ringabell:RingABell",
    "optimum": "efface.attacks.optimum:Optimum",
    "nearest": "efface.attacks.nearest:Nearest",
    "gcg": "efface.attacks.gcg:GCG",
    "p4d": "efface.attacks.p4d:P4D",
    "inversion": "efface.attacks.inversion:Inversion",
    "unlearndiffatk": "efface.attacks.unlearndiffatk:UnlearnDiffAtk",
    "relearning": "efface.attacks.relearning:Relearning",
}
"""Attack name -> module:class."""
SEARCHES = ("gcg", "p4d", "inversion", "unlearndiffatk", "relearning")
"""Those that follow gradients, minutes a concept: the small budget leaves them to who asks."""

_ALL = Registry[Attack]("attack", "efface.attacks", REGISTRY)
names, find, presets, build = _ALL.names, _ALL.find, _ALL.presets, _ALL.build
