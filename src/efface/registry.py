"""Methods by name: ours from an explicit table, third parties' from an entry point group.

Nothing is imported until it is asked for.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

Method = TypeVar("Method")


class Registry(Generic[Method]):
    """One kind of method; each is a frozen dataclass whose fields are its settings."""

    def __init__(self, kind: str, group: str, known: Mapping[str, str]) -> None:
        """`kind`: what users call it; `known`: name -> module:class."""
        self.kind, self.group, self.known = kind, group, known

    def names(self) -> list[str]:
        """Every method: ours, then third parties'."""
        return [*self.known, *sorted(e.name for e in entry_points(group=self.group))]

    def find(self, name: str) -> type[Method]:
        """The class of a method."""
        from efface.core import EffaceError

        if name in self.known:
            module, _, attribute = self.known[name].partition(":")
            found: type[Method] = getattr(import_module(module), attribute)
            return found
        for entry in entry_points(group=self.group, name=name):
            loaded: type[Method] = entry.load()
            return loaded
        raise EffaceError(f"no {self.kind} {name!r}: choose one of {', '.join(self.names())}")

    def presets(self, name: str) -> dict[str, Method]:
        """The named settings of a method."""
        module = import_module(self.find(name).__module__)
        return dict(getattr(module, "PRESETS", {}))

    def build(self, name: str, preset: str | None = None, **settings: Any) -> Method:
        """A method with its defaults, or a preset's settings, and `settings` on top."""
        from efface.core import EffaceError
        from efface.settings import check

        method = self.find(name)
        check(name, method, settings)
        if preset is None:
            return method(**settings)
        known = self.presets(name)
        if preset not in known:
            choice = ", ".join(known) or "none"
            raise EffaceError(f"{name} has no preset {preset!r}: choose one of {choice}")
        made: Method = replace(known[preset], **settings)  # type: ignore[type-var]
        return made
