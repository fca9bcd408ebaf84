"""Methods by name. Each is one file; nothing is imported until it is asked for."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from efface.registry import Registry

if TYPE_CHECKING:
    from torch import Generator

    from efface.backbone import Backbone
    from efface.core import Concept, OnStep
    from efface.patch import Patch


@runtime_checkable
class Eraser(Protocol):
    """A frozen dataclass whose fields are the method's settings."""

    def fit(
        self, model: "Backbone", concept: "Concept", rng: "Generator", on_step: "OnStep"
    ) -> "Patch":
        """The patch that erases `concept` from `model`; `model` itself is left alone."""


REGISTRY = {
    "ablation": "efface.erasers.ablation:Ablation",
    "conceptprune": "efface.erasers.conceptprune:ConceptPrune",
    "esd": "efface.erasers.esd:ESD",
    "fsu": "efface.erasers.fsu:FSU",
    "itd": "efface.erasers.itd:ItD",
    "negative": "efface.erasers.negative:Negative",
    "pac": "efface.erasers.pac:PAC",
    "pesd": "efface.erasers.pesd:PESD",
    "race": "efface.erasers.race:RACE",
    "rece": "efface.erasers.rece:RECE",
    "receler": "efface.erasers.receler:Receler",
    "sld": "efface.erasers.sld:SLD",
    "speed": "efface.erasers.speed:SPEED",
    "uce": "efface.erasers.uce:UCE",
}
"""Method name -> module:class."""

_ALL = Registry[Eraser]("method", "efface.erasers", REGISTRY)
names, find, presets, build = _ALL.names, _ALL.find, _ALL.presets, _ALL.build
