"""Kinds of gates: small networks that a patch brings along and that run where the model runs.

A closed registry: a patch file names its kind here and brings tensors and settings, never code, so
loading one runs nothing foreign. One file a kind.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from efface.core import Gate

REGISTRY = {
    "adapter": "efface.gates.adapter:AdapterGate",
    "features": "efface.gates.features:FeatureGate",
    "negative": "efface.gates.guides:NegativeGuide",
    "sld": "efface.gates.guides:SafeGuide",
}
"""Kind -> module:class."""
GUIDES = ("negative", "sld")
"""Kinds that act on the halves of a guided prediction, at the denoiser's door (see `guides`)."""


@runtime_checkable
class Network(Protocol):
    """What a gate computes; differentiable, since attacks look through it."""

    def to(self, device: Any) -> Any:
        """The same network there."""

    def __call__(self, out: "Tensor", holds: "Tensor | None") -> "Tensor":
        """The site's output [prompts tokens width], or what takes its place.

        `holds`: positions of the prompts themselves [prompts tokens] where the site is in a text
        encoder, else None. The answer for one prompt never depends on the others.
        """


class Kind(Protocol):
    """The class of a kind."""

    @classmethod
    def build(cls, settings: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> Any:
        """The network, or an `EffaceError` that says what of these is not as it must be."""


def build(gate: "Gate") -> Any:
    """The network of a gate, or its guide."""
    from efface.core import EffaceError

    if gate.kind not in REGISTRY:
        raise EffaceError(
            f"its gate is of the kind {gate.kind!r}, this efface knows {', '.join(REGISTRY)}: "
            "use the one that made it"
        )
    module, _, name = REGISTRY[gate.kind].partition(":")
    kind: Kind = getattr(import_module(module), name)
    try:
        return kind.build(gate.settings, gate.tensors)
    except EffaceError as error:
        raise EffaceError(f"its gate at {gate.site} {error}") from error
