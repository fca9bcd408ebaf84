"""Unpack the shipped `emoji-dit` into the training cache, to train on from it on a new machine.

`python -m recipes.emoji_dit.restore`, then the denoiser's recipe. The optimiser's moments are not
shipped: it warms up again from the averaged weights. Refuses to touch a cache that holds a part.
"""

import torch
from diffusers import PixArtTransformer2DModel
from transformers import T5EncoderModel, T5Tokenizer

from recipes.emoji.restore import begin_again
from recipes.emoji_dit.assemble import TARGET
from recipes.emoji_dit.denoiser import DESIGN
from recipes.emoji_dit.text import CACHE
from recipes.emoji_dit.text import OUT as TEXT


def restore() -> None:
    """Text model and denoiser, in float32."""
    if any(p.exists() for p in (TEXT, DESIGN.out)):
        raise FileExistsError(f"{CACHE} already holds trained parts: move them away first")
    encoder = T5EncoderModel.from_pretrained(TARGET / "text_encoder", dtype=torch.float32)
    encoder.save_pretrained(TEXT)
    T5Tokenizer.from_pretrained(TARGET / "tokenizer").save_pretrained(TEXT)
    shipped = PixArtTransformer2DModel.from_pretrained(TARGET / "transformer", dtype=torch.float32)
    begin_again(DESIGN, shipped, TARGET)


if __name__ == "__main__":
    restore()
