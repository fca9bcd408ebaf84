"""Tokenizer and text encoder of `emoji-dit`: a T5 taught as the emoji model's CLIP was.

The encoder reads a caption and must name concept, style and background and foretell the picture's
latent, from the mean of its rows and from the row of its end token.
`python -m recipes.emoji_dit.text` takes minutes, and goes on from its checkpoint where it was
stopped.
"""

import math
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from recipes.emoji.captions import vocabulary_text
from recipes.emoji.text import teach

CACHE = Path(".cache/emoji_dit")
OUT = CACHE / "text"
LENGTH, WIDTH = 120, 256
"""Positions that the pipeline gives a prompt; width of a row."""
SPECIAL = ("<pad>", "</s>", "<unk>")


def train_tokenizer(folder: Path) -> T5Tokenizer:
    """A unigram model of 2,600 pieces that merging pairs finds, scored by use; `folder` gets it."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    letters = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=2600, initial_alphabet=letters, special_tokens=list(SPECIAL), show_progress=False
    )
    bpe.train_from_iterator(vocabulary_text(), trainer)
    used = Counter(p for line in bpe.encode_batch(vocabulary_text()) for p in line.tokens)
    found = bpe.get_vocab()
    pieces = sorted(found.keys() - set(SPECIAL), key=found.__getitem__)
    scores = [math.log((used[p] or 0.1) / used.total()) for p in pieces]
    vocabulary = [*((p, 0.0) for p in SPECIAL), *zip(pieces, scores, strict=True)]
    made = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=LENGTH)
    made.save_pretrained(folder)
    return made


def build_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A T5 encoder of 3 layers of 256."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=64,
            d_ff=768,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_max_distance=64,
        )
    )


def views(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the attended rows, and the last of them: the end token's."""
    weight = mask[:, :, None].float()
    mean = (states * weight).sum(1) / weight.sum(1)
    return mean, states[torch.arange(len(mask)), mask.sum(1) - 1]


def train(steps: int = 1000, batch: int = 80) -> None:
    """Teach the encoder; what it has learned is written at the end."""
    tokenizer = train_tokenizer(OUT)
    torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
    encoder = build_encoder(tokenizer).train()

    def read(texts: list[str]) -> tuple[Tensor, Tensor]:
        words = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(words.input_ids, attention_mask=words.attention_mask)
        return views(out.last_hidden_state.float(), words.attention_mask)

    teach(encoder, read, OUT, WIDTH, steps, batch)
    encoder.eval().save_pretrained(OUT)


if __name__ == "__main__":
    train()
