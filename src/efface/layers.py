"""Which parameters of a denoiser are trained, by name: one table for every method and family."""

from collections.abc import Sequence
from typing import Literal

from efface.core import EffaceError

Layers = Literal["x", "kv", "u", "self", "full"]
"""x: cross-attention; kv: its keys and values; u: all but it; self: self-attention; full: all."""

ENDS = (
    "time_embedding",
    "add_embedding",
    "adaln_single",
    "time_embed",
    "time_text_embed",
    "conv_norm_out",
    "conv_out",
    "norm_out",
    "proj_out",
    "scale_shift_table",
)
"""Leading parts of the names of what embeds time and what gives the output."""


def chosen(names: Sequence[str], layers: Layers) -> list[str]:
    """The names that a choice of layers means."""
    crossed = [n for n in names if ".attn2." in n]
    if not crossed and layers != "full":
        raise EffaceError(
            "this denoiser has no cross-attention of its own, text and picture attend in one: "
            "train its layers 'full'"
        )
    match layers:
        case "x":
            return crossed
        case "kv":
            return [n for n in crossed if ".to_k." in n or ".to_v." in n]
        case "u":
            return [n for n in names if ".attn2." not in n and _top(n) not in ENDS]
        case "self":
            return [n for n in names if ".attn1." in n]
        case "full":
            return list(names)


def _top(name: str) -> str:
    """unet/conv_out.weight -> conv_out."""
    return name.partition("/")[2].partition(".")[0]
