"""Which layer of which text encoder an autoencoder is of."""

from collections.abc import Mapping, Sequence

from efface.core import EffaceError

DEPTH = 0.75
"""Share of the layers up to the site: the paper's is the ninth of twelve."""
UNREAD = (
    "autoencoders are learned of CLIP and T5 text encoders: this model's reads every prompt "
    "behind an instruction, which ItD is not made for; use rece or uce"
)


def at_depth(sites: Sequence[str], layer: int | None) -> str:
    """The site of a layer; without one, three quarters up."""
    at = max(0, round(DEPTH * len(sites)) - 1) if layer is None else layer
    if not 0 <= at < len(sites):
        raise EffaceError(f"no layer {at}: the text encoder's are {sites[0]} to {sites[-1]}")
    return sites[at]


def chosen(layers: Mapping[str, Sequence[str]], encoder: str, layer: int | None) -> str:
    """The site of a model's text encoder."""
    if not layers:
        raise EffaceError(UNREAD)
    if encoder not in layers:
        raise EffaceError(f"no text encoder {encoder!r}: the model has {', '.join(layers)}")
    return at_depth(layers[encoder], layer)
