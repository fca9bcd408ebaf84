"""Methods by name. Each is one file; nothing is imported until it is asked for."""

from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Generator

    from efface.core import Backbone, Concept, OnStep
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
    "race": "efface.erasers.race:RACE",
    "rece": "efface.erasers.rece:RECE",
    "sld": "efface.erasers.sld:SLD",
    "speed": "efface.erasers.speed:SPEED",
    "uce": "efface.erasers.uce:UCE",
}
"""Method name -> module:class."""


def names() -> list[str]:
    """Every method: ours, then third parties' (entry points of the group efface.erasers)."""
    return [*REGISTRY, *sorted(e.name for e in entry_points(group="efface.erasers"))]


def find(name: str) -> type[Eraser]:
    """The class of a method."""
    from efface.core import EffaceError

    if name in REGISTRY:
        module, _, cls = REGISTRY[name].partition(":")
        found: type[Eraser] = getattr(import_module(module), cls)
        return found
    for entry in entry_points(group="efface.erasers", name=name):
        loaded: type[Eraser] = entry.load()
        return loaded
    raise EffaceError(f"no method {name!r}: choose one of {', '.join(names())}")


def presets(name: str) -> dict[str, Eraser]:
    """The named settings of a method."""
    module = import_module(find(name).__module__)
    return dict(getattr(module, "PRESETS", {}))


def build(name: str, preset: str | None = None, **settings: Any) -> Eraser:
    """A method with its defaults, or a preset's settings, and `settings` on top."""
    from efface.core import EffaceError
    from efface.settings import check

    method = find(name)
    check(name, method, settings)
    if preset is None:
        return method(**settings)
    known = presets(name)
    if preset not in known:
        choice = ", ".join(known) or "none"
        raise EffaceError(f"{name} has no preset {preset!r}: choose one of {choice}")
    made: Eraser = replace(known[preset], **settings)  # type: ignore[type-var]
    return made
