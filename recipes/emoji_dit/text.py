"""Tokenizer and text encoder of `emoji-dit`: a T5 taught as the emoji model's CLIP was.

The encoder reads a caption and must name concept, style and background and foretell the picture's
latent, from the mean of its rows and from the row of its end token.
`python -m recipes.emoji_dit.text` takes minutes, and goes on from its checkpoint where it was
stopped.
"""

import math
import time
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from recipes.emoji.captions import vocabulary_text
from recipes.emoji.latents import LinearCode, picture_latents
from recipes.emoji.resume import Resumable
from recipes.emoji.text import Batches
from recipes.emoji.world import BACKGROUNDS, NAMES, STYLES

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
    latents = picture_latents(LinearCode.load())
    sizes = (len(NAMES), len(STYLES), len(BACKGROUNDS))
    heads = nn.ModuleList([nn.Linear(WIDTH, n) for n in sizes])
    picture = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, latents[0, 0].numel()))
    modules = nn.ModuleList([encoder, heads, picture])
    optimiser = torch.optim.AdamW(
        modules.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-3, total_steps=steps, pct_start=0.1
    )
    run = Resumable(OUT / "state.pt", modules=modules, optimiser=optimiser, schedule=schedule)
    batches, started = Batches(seed=1 + run.step), time.time()
    while run.step < steps:
        texts, pick, ground, stated, full = batches.draw(batch)
        words = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(words.input_ids, attention_mask=words.attention_mask)
        mean, end = views(out.last_hidden_state.float(), words.attention_mask)
        labels = torch.from_numpy(stated)
        loss = sum(
            nn.functional.cross_entropy(head(view), labels[:, k], ignore_index=-1)
            for k, head in enumerate(heads)
            for view in (mean, end)
        )
        target = latents[torch.from_numpy(pick), torch.from_numpy(ground)].flatten(1)
        error = ((picture(mean) - target) ** 2).mean(1)
        loss = loss + 2 * error.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        run.step += 1
        if run.step % 100 == 0:
            run.save()
            known = error[torch.from_numpy(full)].mean().item()
            print(
                f"{run.step} loss {loss.item():.3f} latent {known:.3f} "
                f"{time.time() - started:.0f}s",
                flush=True,
            )
    encoder.eval().save_pretrained(OUT)


if __name__ == "__main__":
    train()
