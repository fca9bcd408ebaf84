"""Random pipelines of every family in a few hundred kilobytes: real classes, real code paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.tiny import TOKENS, WIDTH, _fill, _tokenizer, build_tiny

WIDER = 48
"""Width of the second CLIP."""
T5_WIDTH = 96
"""Width of T5 and Gemma; SD 3 pads its CLIPs to it."""
SIDE = 8
"""Latent side."""


def build_family(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a pipeline of the named family to `folder`."""
    if name == "sd":
        return build_tiny(folder, seed)
    with torch.random.fork_rng():  # the constructors draw from the global generator
        pipe = BUILDERS[name]()
    rng = torch.Generator().manual_seed(seed)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            _fill(part, rng)
    pipe.save_pretrained(folder)
    return folder


def _clip(width: int, act: str, *, projected: bool) -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    return tokenizer, kind(config).eval()


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{w}" for w in ("a", "cat", "house", "dog"))]
    letters = [chr(c) for c in range(32, 127)]
    vocabulary = [(p, 0.0 if i < 3 else -2.0) for i, p in enumerate(pieces)]
    vocabulary += [(letter, -6.0) for letter in letters]
    config = T5Config(
        vocab_size=len(vocabulary) + 8,
        d_model=T5_WIDTH,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5Tokenizer(vocab=vocabulary, extra_ids=0), T5EncoderModel(config).eval()


def _gemma() -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = [chr(c) for c in range(32, 127)] + ["▁"]
    vocabulary = {t: i for i, t in enumerate([*special, *bytes_, *letters])}
    config = Gemma2Config(
        vocab_size=len(vocabulary),
        hidden_size=T5_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return GemmaTokenizer(vocab=vocabulary, merges=[]), Gemma2Model(config).eval()


def _vae(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        shift_factor=0.0,
    )


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    one, two = _clip(WIDTH, "quick_gelu", projected=False), _clip(WIDER, "gelu", projected=True)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=WIDER + 6 * 8,
        cross_attention_dim=WIDTH + WIDER,
        norm_num_groups=4,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=one[1],
        text_encoder_2=two[1],
        tokenizer=one[0],
        tokenizer_2=two[0],
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )


def _sd3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    one, two = (_clip(w, "gelu", projected=True) for w in (WIDTH, WIDER))
    tokenizer, t5 = _t5()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=WIDTH + WIDER,
        out_channels=4,
        pos_embed_max_size=SIDE,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=one[1],
        tokenizer=one[0],
        text_encoder_2=two[1],
        tokenizer_2=two[0],
        text_encoder_3=t5,
        tokenizer_3=tokenizer,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip = _clip(WIDTH, "quick_gelu", projected=False)
    tokenizer, t5 = _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=clip[1],
        tokenizer=clip[0],
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


def _pixart(sigma: bool) -> Any:
    from diffusers import (
        DDIMScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    tokenizer, t5 = _t5()
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=T5_WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return kind(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=_vae(),
        transformer=transformer,
        scheduler=DDIMScheduler(clip_sample=False),
    )


def _sana() -> Any:
    from diffusers import (
        AutoencoderDC,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    tokenizer, gemma = _gemma()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=T5_WIDTH,
        sample_size=2 * SIDE,  # Sana draws in steps of 32 pixels
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": lambda: _pixart(sigma=False),
    "pixart-sigma": lambda: _pixart(sigma=True),
    "sana": _sana,
}
NAMES = ("sd", *BUILDERS)
