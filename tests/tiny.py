"""A random StableDiffusionPipeline folder of half a megabyte: real classes, real code paths.

It draws noise, but everything that erasing touches is there: a byte-level tokenizer that takes any
text, a text encoder with a last norm, and a U-Net that reads text at two levels and in the middle.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH, TOKENS, PICTURE = 32, 16, 16
MERGES = ("c a", "ca t</w>", "d o", "do g</w>", "h o", "ho u", "hou s", "hous e</w>")
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """Write the pipeline to `folder`; another seed gives another model of the same shapes."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng():  # the constructors draw from the global generator
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=PICTURE // 2,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=PICTURE,
        )
    rng = torch.Generator().manual_seed(seed)
    for part in (text_encoder, unet, vae):
        _fill(part, rng)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    (folder / "concepts.json").write_text(json.dumps({"concepts": ["cat", "dog", "house", "tree"]}))
    return folder


@torch.no_grad()
def _fill(part: nn.Module, rng: torch.Generator) -> None:
    """Every tensor from one generator: matrices keep variance, norms stay near one."""
    for name, tensor in sorted(part.named_parameters()):
        noise = torch.randn(tensor.shape, generator=rng)
        if tensor.ndim > 1:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
        else:
            tensor.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))


def _tokenizer(*, special_last: bool = False) -> Any:
    """CLIP's byte-level BPE: every byte, every byte that ends a word, and a few merges.

    `special_last`: numbered as OpenAI's, "!" first and the end token last.
    """
    from transformers import CLIPTokenizer

    letters = _bytes_as_letters()
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *merged]
    tokens = [*tokens, *SPECIAL] if special_last else [*SPECIAL, *tokens]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split()) for merge in MERGES],  # type: ignore[misc]
        model_max_length=TOKENS,
    )


def _bytes_as_letters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]
