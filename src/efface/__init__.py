"""efface: remove a concept from a text-to-image diffusion model and prove that it is gone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efface.api import apply, draw, erase, load, pipeline, stack
    from efface.core import Case, Concept, EffaceError, Estimate, Verdict
    from efface.patch import Patch

__version__ = "0.1.0"
__all__ = [
    "Case",
    "Concept",
    "EffaceError",
    "Estimate",
    "Patch",
    "Verdict",
    "apply",
    "draw",
    "erase",
    "load",
    "pipeline",
    "stack",
]

_HOMES = {
    "api": ("apply", "draw", "erase", "load", "pipeline", "stack"),
    "core": ("Case", "Concept", "EffaceError", "Estimate", "Verdict"),
    "patch": ("Patch",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing efface costs nothing."""
    for module, public in _HOMES.items():
        if name in public:
            return getattr(import_module(f"efface.{module}"), name)
    raise AttributeError(f"module 'efface' has no attribute {name!r}")
