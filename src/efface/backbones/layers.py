"""Layers of text encoders as sites: their names, what they put out, and which weights that takes.

A site is "component/module", the module without the level "text_model." that transformers puts in
or leaves out from one release to the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.backbones.encoders import Encoder
from efface.backbones.fingerprint import roundings
from efface.backbones.listen import Listener, Site
from efface.backbones.text import TextSide
from efface.core import EffaceError, Heard

AFTER = ("final_layer_norm.", "encoder.final_layer_norm.", "text_projection.")
"""What stands behind the layers."""
LEVEL = "text_model."


class Layer(NamedTuple):
    """A site found in a model."""

    encoder: Encoder
    module: Any
    name: str
    later: tuple[str, ...]
    """Names of the layers behind it."""


def sites(components: Sequence[str], text: TextSide) -> Mapping[str, tuple[str, ...]]:
    """Text encoder -> the sites of its layers, first to last."""
    found = {
        component: tuple(f"{component}/{name}" for name in encoder.layers())
        for component, encoder in zip(components, text.encoders, strict=True)
    }
    return {component: layers for component, layers in found.items() if layers}


def find(components: Sequence[str], text: TextSide, site: str) -> Layer:
    """The layer of a site, or one sentence on why there is none."""
    component, _, name = site.partition("/")
    encoder = dict(zip(components, text.encoders, strict=True)).get(component)
    layers = encoder.layers() if encoder is not None else {}
    if encoder is None or name not in layers:
        known = ", ".join(f"{s[0]} to {s[-1]}" for s in sites(components, text).values())
        raise EffaceError(f"the model has no text layer {site!r}: it has {known or 'none'}")
    names = [*layers]
    return Layer(encoder, layers[name], name, tuple(names[names.index(name) + 1 :]))


def hear(
    components: Sequence[str], text: TextSide, prompts: Sequence[str], site: str, batch: int
) -> Heard:
    """What a layer puts out as the model encodes prompts; the model is left without a hook."""
    layer = find(components, text, site)
    rows, holds = list[Tensor](), list[Tensor]()

    def keep(out: Tensor, held: Tensor | None) -> Tensor:
        assert held is not None
        rows.append(out.detach().float().cpu())
        holds.append(held.cpu())
        return out

    listener = Listener(layer.encoder.span)
    handles = [*listener.hang(layer.encoder.model), Site([keep], listener).hang(layer.module)]
    try:
        for start in range(0, len(prompts), batch):
            text.encode(prompts[start : start + batch])
    finally:
        for handle in handles:
            handle.remove()
    return Heard(torch.cat(rows), torch.cat(holds))


def identity(components: Sequence[str], text: TextSide, site: str) -> str:
    """Content hash of the weights that a layer's output comes through."""
    layer = find(components, text, site)
    behind = (*AFTER, *(f"{name}." for name in layer.later))

    def before() -> Iterator[Tensor]:
        for name, tensor in layer.encoder.model.named_parameters():
            if not name.removeprefix(LEVEL).startswith(behind):
                yield tensor

    return roundings(before())
