"""Put the trained parts of `emoji-dit` together as an ordinary diffusers folder, half precision.

`python -m recipes.emoji_dit.assemble` writes `src/efface/models/emoji-dit`: a PixArt pipeline with
the emoji model's autoencoder, and `judges.json`, which names the model whose judges judge it.
"""

import json
from pathlib import Path

from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from transformers import T5EncoderModel, T5Tokenizer

from recipes.emoji.assemble import TARGET as EMOJI
from recipes.emoji.assemble import Story, story, write
from recipes.emoji.training import Trainer, scheduler
from recipes.emoji_dit.denoiser import DESIGN
from recipes.emoji_dit.text import OUT as TEXT

TARGET = EMOJI.with_name("emoji-dit")


def assemble(transformer: PixArtTransformer2DModel, training: Story) -> None:
    """The pipeline, and where its judges are."""
    pipe = PixArtAlphaPipeline(
        tokenizer=T5Tokenizer.from_pretrained(TEXT),
        text_encoder=T5EncoderModel.from_pretrained(TEXT),
        vae=AutoencoderKL.from_pretrained(EMOJI / "vae"),
        transformer=transformer,
        scheduler=scheduler(),
    )
    write(pipe, training, TARGET, finish)


def finish(folder: Path) -> None:
    """Name the judges; name the tokenizer as transformers 4 calls it, which 5 knows too."""
    (folder / "judges.json").write_text(json.dumps({"model": EMOJI.name}) + "\n")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))


if __name__ == "__main__":
    run = Trainer(DESIGN, seed=0)
    assemble(run.averaged(), story(run))
