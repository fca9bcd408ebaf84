"""Text encoders in single-file checkpoints: where they stand and what their tensors are called.

CLIP-L is stored with the names of transformers; OpenCLIP with its own, where queries, keys and
values are one matrix and the projection stands transposed; T5 with the names of transformers.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from efface.backbones.ldm_names import Shapes


class Layout(NamedTuple):
    """How one family of files holds one text encoder."""

    which: str
    """The diffusers component it becomes."""
    prefix: str
    style: Literal["clip", "open_clip", "t5"]
    """Whose names its tensors have."""
    model: Literal["CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"]
    """The transformers class."""
    openai: bool = True
    """Trained by OpenAI (quick GELU, padded with its end token), else by LAION (GELU, with 0)."""
    identity: bool = False
    """Its pooled row leaves unprojected, though diffusers has a projection there."""
    layers: int | None = None
    """How many of its layers the family uses."""


SD2_LAYERS = 23
"""SD 2 reads the last but one of ViT-H's 24 layers; files made from diffusers lack the last."""
PLAIN: Literal["CLIPTextModel"] = "CLIPTextModel"
PROJECTED: Literal["CLIPTextModelWithProjection"] = "CLIPTextModelWithProjection"

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "sd1": (Layout("text_encoder", "cond_stage_model.transformer.", "clip", PLAIN),),
    "sd2": (
        Layout(
            "text_encoder",
            "cond_stage_model.model.",
            "open_clip",
            PLAIN,
            openai=False,
            layers=SD2_LAYERS,
        ),
    ),
    "sdxl": (
        Layout("text_encoder", "conditioner.embedders.0.transformer.", "clip", PLAIN),
        Layout(
            "text_encoder_2", "conditioner.embedders.1.model.", "open_clip", PROJECTED, openai=False
        ),
        Layout(  # the refiner's only one
            "text_encoder_2", "conditioner.embedders.0.model.", "open_clip", PROJECTED, openai=False
        ),
    ),
    "sd3": (
        Layout(
            "text_encoder", "text_encoders.clip_l.transformer.", "clip", PROJECTED, identity=True
        ),
        Layout(
            "text_encoder_2", "text_encoders.clip_g.transformer.", "clip", PROJECTED, openai=False
        ),
        Layout("text_encoder_3", "text_encoders.t5xxl.transformer.", "t5", "T5EncoderModel"),
    ),
    "flux": (
        Layout("text_encoder", "text_encoders.clip_l.transformer.", "clip", PLAIN),
        Layout("text_encoder_2", "text_encoders.t5xxl.transformer.", "t5", "T5EncoderModel"),
    ),
}
"""Kind of file -> its text encoders."""


class Piece(NamedTuple):
    """Where one tensor of an encoder comes from."""

    stored: str
    third: int | None = None
    """Queries, keys or values of a fused matrix."""
    transposed: bool = False
    identity: bool = False
    """Only its shape is taken."""

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Its shape, by the header."""
        stored = shapes[self.stored]
        if self.third is not None:
            return (stored[0] // 3, *stored[1:])
        return stored[::-1] if self.transposed else stored

    def of(self, stored: Tensor) -> Tensor:
        """The tensor, from the stored one."""
        if self.identity:
            return torch.eye(len(stored), dtype=stored.dtype)
        if self.third is not None:
            return stored.chunk(3)[self.third]
        return stored.T.contiguous() if self.transposed else stored


IGNORED = re.compile(r"logit_scale|attn_mask|(text_model\.)?embeddings\.position_ids")
"""Stored by some, and read by no text encoder."""
PROJECTION = "text_projection.weight"
NORMS = {
    **dict.fromkeys(("clip", "open_clip"), "text_model.final_layer_norm"),
    "t5": "encoder.final_layer_norm",
}
"""Style -> the norm that an encoder's last states leave, as transformers names it."""
TOKENS = "text_model.embeddings.token_embedding.weight"
POSITIONS = "text_model.embeddings.position_embedding.weight"
SQUARE = "text_model.encoder.layers.0.self_attn.q_proj.weight"
"""As wide and as high as a row is long."""
OPEN_CLIP = {
    "token_embedding.weight": TOKENS,
    "positional_embedding": POSITIONS,
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")


def pieces(layout: Layout, shapes: Shapes) -> dict[str, Piece]:
    """Name in transformers -> its source, for every tensor of one encoder.

    CLIP's names start with `text_model.`, as transformers writes them to files.
    """
    found: dict[str, Piece] = {}
    for stored in shapes:
        if not stored.startswith(layout.prefix):
            continue
        name = stored.removeprefix(layout.prefix)
        if IGNORED.fullmatch(name):
            continue
        if name in ("text_projection", PROJECTION):
            if layout.model == PROJECTED and not layout.identity:
                found[PROJECTION] = Piece(stored, transposed=name != PROJECTION)
        elif layout.style == "open_clip":
            found |= _open_clip(name, stored, layout.layers)
        else:
            top = layout.style == "clip" and not name.startswith("text_model.")
            found[f"text_model.{name}" if top else name] = Piece(stored)
    if layout.style == "t5":
        shared, inner = "shared.weight", "encoder.embed_tokens.weight"
        for name, twin in ((shared, inner), (inner, shared)):
            if twin in found:
                found.setdefault(name, found[twin])
    if layout.identity and SQUARE in found:
        found[PROJECTION] = found[SQUARE]._replace(identity=True)
    return found


def _open_clip(name: str, stored: str, layers: int | None) -> dict[str, Piece]:
    match = RESBLOCK.fullmatch(name)
    if not match:
        return {OPEN_CLIP.get(name, name): Piece(stored)}
    number, part, kind = match.groups()
    if layers is not None and int(number) >= layers:
        return {}
    layer = f"text_model.encoder.layers.{number}"
    if part == "attn.in_proj":
        return {f"{layer}.self_attn.{p}_proj.{kind}": Piece(stored, i) for i, p in enumerate("qkv")}
    return {f"{layer}.{OPEN_CLIP_LAYER.get(part, part)}.{kind}": Piece(stored)}
