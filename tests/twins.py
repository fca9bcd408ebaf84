"""One random model, saved twice: as a diffusers folder and as a single file with LDM names.

Of SD3 and FLUX the file holds the text side and the matrices that text enters; the rest is a stub.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import ldm
from tests.families import _vae
from tests.ldm import DENOISER, ROW, TINY, Tensors, ldm_unet, named, open_clip
from tests.tiny import _tokenizer

T5_ROW = 3 * ROW
"""Wider than both CLIPs side by side."""


class Twins(NamedTuple):
    """The same model."""

    folder: Path
    file: Path
    stored: Mapping[str, str]
    """Diffusers name -> stored name of the denoiser's tensors that both hold."""


def build_twins(kind: str, place: Path, dtype: torch.dtype = torch.float32) -> Twins:
    """Write both under `place`."""
    pipe, tensors, stored = KINDS[kind]()
    pipe.to(dtype).save_pretrained(place / "folder")
    save_file(
        {n: t.detach().clone().to(dtype).contiguous() for n, t in tensors.items()},
        place / "file.safetensors",
        {"note": "mine"},
    )
    return Twins(place / "folder", place / "file.safetensors", stored)


Built = tuple[Any, Tensors, dict[str, str]]


def _words(pad: str | None = None) -> Any:
    words = _tokenizer(special_last=True)
    if pad:
        words.pad_token = pad
    return words


def _unet(kind: str, **changes: Any) -> tuple[Any, Tensors, dict[str, str]]:
    config = TINY[kind] | changes
    model = ldm.unet(config)
    state = model.state_dict()
    return model, ldm_unet(state, config), ldm_unet({n: n for n in state}, config)


def _turned(stored: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in stored.items()}


def _sd(kind: str) -> Built:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    unet, tensors, stored = _unet(kind)
    words = _words("!" if kind == "sd2" else None)
    if kind == "sd1":
        clip = ldm.clip(len(words))
        tensors |= named(clip, "cond_stage_model.transformer.")
    else:
        clip = ldm.clip(len(words), layers=23, act="gelu")
        tensors |= open_clip(clip, "cond_stage_model.model.")
    pipe = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=clip,
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, tensors | _picture_side(), _turned(stored)


def _sdxl() -> Built:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet, tensors, stored = _unet(
        "sdxl", cross_attention_dim=2 * ROW, projection_class_embeddings_input_dim=ROW + 6 * 8
    )
    one, two = _words(), _words("!")
    clip, g = ldm.clip(len(one)), ldm.projected(len(two), seed=1)
    tensors |= named(clip, "conditioner.embedders.0.transformer.")
    tensors |= open_clip(g, "conditioner.embedders.1.model.")
    pipe = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=clip,
        text_encoder_2=g,
        tokenizer=one,
        tokenizer_2=two,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )
    return pipe, tensors | _picture_side(), _turned(stored)


def _t5() -> tuple[Any, Any]:
    from tests.families import _t5 as other

    words, _ = other()
    return words, ldm.t5(2, len(words) + 8, T5_ROW)


def _transformer(model: Any, rows: str, pooled: str, block: str) -> tuple[Tensors, dict[str, str]]:
    """Readers with their biases, and a tensor by which the kind is known."""
    linear = "time_text_embed.text_embedder.linear_1"
    stored = {
        f"{ours}.{kind}": f"{DENOISER}{theirs}.{kind}"
        for ours, theirs in (("context_embedder", rows), (linear, pooled))
        for kind in ("weight", "bias")
    }
    state = model.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in stored.items()}
    return tensors | {DENOISER + block: torch.ones(24, 8)}, stored


def _sd3() -> Built:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    one, two = _words(), _words("!")
    clip, g = (ldm.projected(len(one), act=a, seed=s) for a, s in (("quick_gelu", 0), ("gelu", 1)))
    clip.text_projection.weight.data.copy_(torch.eye(ROW))
    tokenizer, t5 = _t5()
    with torch.random.fork_rng():
        transformer = ldm.filled(
            SD3Transformer2DModel(
                sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
                num_attention_heads=4, joint_attention_dim=T5_ROW, caption_projection_dim=32,
                pooled_projection_dim=2 * ROW, out_channels=4, pos_embed_max_size=8,
            )
        )  # fmt: skip
    tensors, stored = _transformer(
        transformer,
        "context_embedder",
        "y_embedder.mlp.0",
        "joint_blocks.0.context_block.attn.qkv.weight",
    )
    l_file = named(clip, "text_encoders.clip_l.transformer.")
    tensors |= {n: t for n, t in l_file.items() if "projection" not in n}
    tensors |= named(g, "text_encoders.clip_g.transformer.")
    tensors |= _t5_file(t5)
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=clip,
        tokenizer=one,
        text_encoder_2=g,
        tokenizer_2=two,
        text_encoder_3=t5,
        tokenizer_3=tokenizer,
    )
    return pipe, tensors, stored


def _flux() -> Built:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    words = _words()
    clip = ldm.clip(len(words))
    tokenizer, t5 = _t5()
    with torch.random.fork_rng():
        transformer = ldm.filled(
            FluxTransformer2DModel(
                patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
                attention_head_dim=16, num_attention_heads=2, joint_attention_dim=T5_ROW,
                pooled_projection_dim=ROW, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
            )
        )  # fmt: skip
    tensors, stored = _transformer(
        transformer, "txt_in", "vector_in.in_layer", "double_blocks.0.img_attn.qkv.weight"
    )
    tensors |= named(clip, "text_encoders.clip_l.transformer.") | _t5_file(t5)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=clip,
        tokenizer=words,
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )
    return pipe, tensors, stored


def _t5_file(t5: Any) -> Tensors:
    return {f"text_encoders.t5xxl.transformer.{n}": t for n, t in t5.state_dict().items()}


def _picture_side() -> dict[str, Tensor]:
    return {"first_stage_model.decoder.conv_in.weight": torch.ones(4, 4, 3, 3)}


KINDS: dict[str, Callable[[], Built]] = {
    "sd1": lambda: _sd("sd1"),
    "sd2": lambda: _sd("sd2"),
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
}
