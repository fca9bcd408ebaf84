"""The denoiser of `emoji-dit`: a PixArt transformer on the emoji model's latents.

`python -m recipes.emoji_dit.denoiser --minutes M` trains on top of the frozen text encoder and
resumes from its checkpoint, as the emoji model's recipe does.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from recipes.emoji.latents import CHANNELS
from recipes.emoji.training import Design, Encode, command
from recipes.emoji_dit.text import CACHE, WIDTH
from recipes.emoji_dit.text import OUT as TEXT

READ = 20
"""Positions that hold any caption; the rest of the pipeline's are padding, masked from both."""


def build() -> PixArtTransformer2DModel:
    """About 11 M parameters; six layers over 16 tokens, one for each 2x2 cells of the latent."""
    model = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=6,
        num_attention_heads=5,
        attention_head_dim=64,
        cross_attention_dim=5 * 64,
        caption_channels=WIDTH,
    )
    begin(model)
    return model


def begin(model: PixArtTransformer2DModel) -> None:
    """Every layer begins as the identity: what it adds is scaled by zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(block.scale_shift_table)
    for linear in (model.adaln_single.linear, model.proj_out):
        nn.init.zeros_(linear.weight)
    nn.init.zeros_(model.scale_shift_table)


def encoder() -> Encode:
    """Captions read by the trained text encoder."""
    model = T5EncoderModel.from_pretrained(TEXT).eval()
    return reader(T5Tokenizer.from_pretrained(TEXT), model)


def reader(tokenizer: T5Tokenizer, model: T5EncoderModel) -> Encode:
    """Rows and mask as the pipeline passes them, without most of the padding at the end."""

    def encode(texts: list[str]) -> Mapping[str, Tensor]:
        words = tokenizer(texts, padding="max_length", max_length=READ, return_tensors="pt")
        mask = words.attention_mask
        states = model(words.input_ids, attention_mask=mask).last_hidden_state
        return {
            "encoder_hidden_states": states.to(torch.bfloat16),
            "encoder_attention_mask": mask,
        }

    return encode


def optimiser(model: Any) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, tables) do not decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1.4e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def as_it_is(model: Any) -> Any:
    """Compiling gains nothing at these sizes and takes minutes."""
    return model


DESIGN = Design(
    "transformer", CACHE / "denoiser", build, encoder, optimiser, 128, 10_000, 0.97, as_it_is
)


if __name__ == "__main__":
    command(DESIGN, __doc__)
