"""Where text enters each family's denoiser, by tensor name: one row a family.

A text stream is read by the linear layers named here and by nothing else, so a map merged into them
is the same as a map on the stream.
"""

from collections.abc import Iterable
from typing import NamedTuple

from efface.core import EffaceError


class Family(NamedTuple):
    """One denoiser family."""

    component: str
    """The pipeline component that reads text."""
    readers: tuple[str, ...]
    """Endings of the names of the matrices that first consume the text."""


FAMILIES = {
    "UNet2DConditionModel": Family("unet", (".attn2.to_k.weight", ".attn2.to_v.weight")),
}
"""Denoiser class -> where its text enters."""


def family(denoiser: str, model: str) -> Family:
    """The family of a denoiser class; `model` says whose it is if there is none."""
    if denoiser not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise EffaceError(f"{model}: its {denoiser} is not a denoiser efface knows; known: {known}")
    return FAMILIES[denoiser]


def reader_names(kind: Family, names: Iterable[str], model: str) -> list[str]:
    """The matrices that consume text, in sorted order."""
    found = sorted(n for n in names if n.endswith(kind.readers))
    if not found:
        raise EffaceError(
            f"{model}: no tensor of its {kind.component} ends in {' or '.join(kind.readers)}: "
            "text enters it nowhere"
        )
    return found
