"""Tokenizer and text encoder of the emoji model, taught against the pictures before the denoiser.

The encoder reads a caption and must name concept, style and background and foretell the picture's
latent; unlike CLIP there is no image tower, the pictures' own linear code takes its place. The
denoiser then trains on the frozen encoder. `python -m recipes.emoji.text` takes minutes, and goes
on from its checkpoint where it was stopped.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.emoji.captions import caption, vocabulary_text, word_for
from recipes.emoji.data import CACHE, load
from recipes.emoji.latents import LinearCode, picture_latents
from recipes.emoji.resume import Resumable
from recipes.emoji.world import BACKGROUNDS, NAMES, STYLES

LENGTH = 32
"""Positions of the text model."""
OUT = CACHE / "text"
Read = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Captions to two views of what they say: as a whole, and at the end."""


def train_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level BPE of 3,000 tokens in CLIP's form, written to `folder`."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False),
        ]
    )
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary_text(), trainer)
    state = json.loads(bpe.to_str())["model"]
    vocab = dict(state["vocab"])
    for symbol in sorted(alphabet):
        for form in (symbol, symbol + "</w>"):
            vocab.setdefault(form, len(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    merges = [" ".join(m) if isinstance(m, list) else m for m in state["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of 3 layers of 256."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        projection_dim=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Batches:
    """Random captions with what they say; -1 where a caption leaves style or background open."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        pictures = load()
        self.trained = np.flatnonzero(~pictures.held_out)
        self.thing, self.style = pictures.thing, pictures.style

    def draw(self, size: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`size` captions; picture index, background, and the labels [size, 3] a caption states."""
        rng = self.rng
        pick = rng.choice(self.trained, size)
        ground = rng.integers(len(BACKGROUNDS), size=size)
        says_style, says_ground = rng.random(size) < 0.7, rng.random(size) < 0.7
        texts = [
            caption(
                word_for(NAMES[self.thing[i]], rng),
                list(STYLES)[self.style[i]] if s else None,
                list(BACKGROUNDS)[g] if b else None,
                rng,
            )
            for i, g, s, b in zip(pick, ground, says_style, says_ground, strict=True)
        ]
        style = np.where(says_style, self.style[pick], -1)
        stated = np.stack([self.thing[pick], style, np.where(says_ground, ground, -1)], 1)
        return texts, pick, ground, stated, says_style & says_ground


def teach(encoder: nn.Module, read: Read, out: Path, width: int, steps: int, batch: int) -> None:
    """Teach an encoder what captions say; goes on from the checkpoint in `out`."""
    latents = picture_latents(LinearCode.load())
    sizes = (len(NAMES), len(STYLES), len(BACKGROUNDS))
    heads = nn.ModuleList([nn.Linear(width, n) for n in sizes])
    picture = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, latents[0, 0].numel()))
    modules = nn.ModuleList([encoder, heads, picture])
    optimiser = torch.optim.AdamW(
        modules.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-3, total_steps=steps, pct_start=0.1
    )
    run = Resumable(out / "state.pt", modules=modules, optimiser=optimiser, schedule=schedule)
    batches, started = Batches(seed=1 + run.step), time.time()
    while run.step < steps:
        texts, pick, ground, stated, full = batches.draw(batch)
        whole, end = read(texts)
        labels = torch.from_numpy(stated)
        loss = sum(
            nn.functional.cross_entropy(head(view), labels[:, k], ignore_index=-1)
            for k, head in enumerate(heads)
            for view in (whole, end)
        )
        target = latents[torch.from_numpy(pick), torch.from_numpy(ground)].flatten(1)
        error = ((picture(whole) - target) ** 2).mean(1)
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


def train(steps: int = 1600, batch: int = 96) -> None:
    """Teach the encoder; what it has learned is written at the end.

    A resumed run keeps its tokenizer: another training of it numbers the tokens otherwise.
    """
    begun = (OUT / "state.pt").exists()
    tokenizer = CLIPTokenizer.from_pretrained(OUT) if begun else train_tokenizer(OUT)
    generator = torch.Generator().manual_seed(0)
    torch.random.set_rng_state(generator.get_state())
    encoder = build_encoder(tokenizer)
    encoder.set_attn_implementation("eager")

    def read(texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(ids)
        return out.pooler_output.float(), out.last_hidden_state.float()[:, -1]

    teach(encoder, read, OUT, 256, steps, batch)
    encoder.save_pretrained(OUT)


if __name__ == "__main__":
    train()
