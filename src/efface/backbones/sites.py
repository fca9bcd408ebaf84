"""Where text enters each family's denoiser, by tensor name: one row a family.

A text stream is read by the linear layers named here and by nothing else, so a map merged into them
is the same as a map on the stream. Biases are added after the map and stay as they are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from efface.backbones import text
from efface.core import EffaceError


class Site(NamedTuple):
    """Where one stream enters."""

    readers: tuple[str, ...]
    """Names, or ends of the names, of the matrices that first consume it."""
    width: Callable[[Mapping[str, Any]], int] | None = None
    """From the denoiser's config: columns of the stream where the matrix reads more after them."""


class Family(NamedTuple):
    """One family of models."""

    name: str
    denoiser: str
    """Class of the denoiser."""
    pipelines: tuple[str, ...]
    """How the pipeline classes begin, where the denoiser alone does not tell."""
    component: str
    """Component of the pipeline that holds the denoiser."""
    encoders: tuple[str, ...]
    """Components that read prompts; each has a tokenizer of the same number."""
    streams: Mapping[str, Site]
    text: Callable[[Mapping[str, Any]], text.TextSide]
    """Made of the parts by component name, and `width`: of the matrices that read the rows."""

    def parts(self) -> tuple[str, ...]:
        """Components that the text side needs."""
        return (*(e.replace("text_encoder", "tokenizer") for e in self.encoders), *self.encoders)


def _beside_time_ids(config: Mapping[str, Any]) -> int:
    """SDXL reads its pooled vector beside six embedded sizes and crops."""
    width: int = config["projection_class_embeddings_input_dim"]
    return width - 6 * int(config["addition_time_embed_dim"])


ATTENTION = Site(("attn2.to_k.weight", "attn2.to_v.weight"))
CONTEXT = Site(("context_embedder.weight",))
CAPTION = Site(("caption_projection.linear_1.weight",))
POOLED = Site(("time_text_embed.text_embedder.linear_1.weight",))
ADDED = Site(("add_embedding.linear_1.weight",), _beside_time_ids)
ONE, TWO = ("text_encoder",), ("text_encoder", "text_encoder_2")
THREE = (*TWO, "text_encoder_3")

FAMILIES = (
    Family("sd", "UNet2DConditionModel", (), "unet", ONE, {"text": ATTENTION}, text.SD),
    Family(
        "sdxl",
        "UNet2DConditionModel",
        (),
        "unet",
        TWO,
        {"text": ATTENTION, "pooled": ADDED},
        text.SDXL,
    ),
    Family(
        "sd3",
        "SD3Transformer2DModel",
        (),
        "transformer",
        THREE,
        {"text": CONTEXT, "pooled": POOLED},
        text.SD3,
    ),
    Family(
        "sd3",
        "SD3Transformer2DModel",
        (),
        "transformer",
        TWO,
        {"text": CONTEXT, "pooled": POOLED},
        text.SD3Clips,
    ),
    Family(
        "flux",
        "FluxTransformer2DModel",
        ("Flux",),
        "transformer",
        TWO,
        {"text": CONTEXT, "pooled": POOLED},
        text.Flux,
    ),
    Family(
        "pixart-sigma",
        "PixArtTransformer2DModel",
        ("PixArtSigma",),
        "transformer",
        ONE,
        {"text": CAPTION},
        text.PixArtSigma,
    ),
    Family(
        "pixart",
        "PixArtTransformer2DModel",
        ("PixArtAlpha",),
        "transformer",
        ONE,
        {"text": CAPTION},
        text.PixArt,
    ),
    Family(
        "sana",
        "SanaTransformer2DModel",
        ("Sana",),
        "transformer",
        ONE,
        {"text": CAPTION},
        text.Sana,
    ),
)


def family(pipeline: str, denoiser: str, encoders: Sequence[str], model: str) -> Family:
    """The family by its classes and the text encoders it has; `model` says whose they are."""
    alike = [f for f in FAMILIES if f.denoiser == denoiser]
    if not alike:
        known = ", ".join(sorted({f.denoiser for f in FAMILIES}))
        raise EffaceError(f"{model}: its {denoiser} is not a denoiser efface knows; known: {known}")
    for kind in alike:
        if kind.encoders == tuple(encoders) and pipeline.startswith(kind.pipelines or ""):
            return kind
    known = " or ".join(f"{f.name} with {', '.join(f.encoders)}" for f in alike)
    raise EffaceError(
        f"{model}: a {pipeline} with {', '.join(encoders) or 'no text encoder'} is not one "
        f"efface knows: its {denoiser} is known as {known}"
    )


def reader_names(kind: Family, stream: str, names: Iterable[str], model: str) -> list[str]:
    """The matrices that consume a stream, in sorted order."""
    ends = kind.streams[stream].readers
    found = sorted(n for n in names if f".{n}".endswith(tuple(f".{end}" for end in ends)))
    if not found:
        raise EffaceError(
            f"{model}: no tensor of its {kind.component} ends in {' or '.join(ends)}: "
            "text enters it nowhere"
        )
    return found
