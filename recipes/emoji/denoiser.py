"""The emoji denoiser: a U-Net with cross-attention at both levels, v-prediction on 8x8x8 latents.

`python -m recipes.emoji.denoiser --minutes M` trains on top of the frozen text encoder and resumes
from its checkpoint (weights, averaged weights, optimiser, sample count). Learning rate: warm-up,
then constant, then `--cool-down` anneals it to zero over the given minutes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.emoji.data import CACHE
from recipes.emoji.latents import CHANNELS
from recipes.emoji.text import OUT as TEXT
from recipes.emoji.training import Design, Encode, command


def build() -> UNet2DConditionModel:
    """About 16 M parameters; seven cross-attention layers."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(160, 224),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
    )


def encoder() -> Encode:
    """Last states of every position, padding and all."""
    tokenizer = CLIPTokenizer.from_pretrained(TEXT)
    model = CLIPTextModel.from_pretrained(TEXT, attn_implementation="eager").eval()

    def encode(texts: list[str]) -> Mapping[str, Tensor]:
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"encoder_hidden_states": model(ids).last_hidden_state.to(torch.bfloat16)}

    return encode


def optimiser(model: Any) -> torch.optim.Optimizer:
    """AdamW over all weights."""
    return torch.optim.AdamW(
        model.parameters(), lr=5e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )


def compiled(model: Any) -> Any:
    """Compiled, channels last, as convolutions on CPUs like it."""
    return torch.compile(model.to(memory_format=torch.channels_last))


DESIGN = Design("unet", CACHE / "denoiser", build, encoder, optimiser, 64, 30_000, 0.9975, compiled)


if __name__ == "__main__":
    command(DESIGN, __doc__)
