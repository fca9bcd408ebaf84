"""The emoji denoiser: a U-Net with cross-attention at both levels, v-prediction on 8x8x8 latents.

`python -m recipes.emoji.denoiser --minutes M` trains on top of the frozen text encoder and resumes
from its checkpoint (weights, averaged weights, optimiser, sample count). Learning rate: warm-up,
then constant, then `--cool-down` anneals it to zero over the given minutes.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.emoji.data import CACHE
from recipes.emoji.latents import CHANNELS, LinearCode, picture_latents
from recipes.emoji.text import LENGTH, Batches
from recipes.emoji.text import OUT as TEXT

OUT = CACHE / "denoiser"
BATCH, RATE, WARM_UP, EMPTY, FOLLOW = 64, 5e-4, 500, 0.1, 5


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


def scheduler() -> DDIMScheduler:
    """Cosine noise, v-prediction, last step at pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


class Trainer:
    """Everything a resumed run needs, in one file."""

    def __init__(self, seed: int) -> None:
        torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        self.unet = build()
        self.unet.set_attn_processor(AttnProcessor())
        self.average = {k: v.clone() for k, v in self.unet.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.unet.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.step, self.minutes = 0, 0.0
        if (OUT / "state.pt").exists():
            state = torch.load(OUT / "state.pt", weights_only=True)  # noqa: TID251 (our own file)
            self.unet.load_state_dict(state["unet"])
            self.average = state["average"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.minutes = state["step"], state["minutes"]

    def save(self) -> None:
        """Write the whole state under a temporary name, then rename."""
        OUT.mkdir(parents=True, exist_ok=True)
        state = {
            "unet": self.unet.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
        }
        torch.save(state, OUT / "state.tmp")
        (OUT / "state.tmp").replace(OUT / "state.pt")

    def follow(self) -> None:
        """Move the averaged weights towards the current ones; called every `FOLLOW` steps."""
        keep = min(0.9975, (1 + self.step) / (10 * FOLLOW + self.step))
        names = list(self.average)
        state = self.unet.state_dict()
        torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], 1 - keep)

    def averaged(self) -> UNet2DConditionModel:
        """A model with the averaged weights."""
        unet = build()
        unet.load_state_dict(self.average)
        return unet


class Pool:
    """Captions encoded once, each with its picture and background; one in ten is empty."""

    def __init__(self, size: int, seed: int) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(TEXT)
        encoder = CLIPTextModel.from_pretrained(TEXT, attn_implementation="eager").eval()
        batches = Batches(seed)
        texts, self.pick, self.ground, _, _ = batches.draw(size)
        texts = [
            "" if r < EMPTY else t for r, t in zip(batches.rng.random(size), texts, strict=True)
        ]
        self.rows = torch.empty(size, LENGTH, 256, dtype=torch.bfloat16)
        for i in range(0, size, 256):
            part = texts[i : i + 256]
            ids = tokenizer(
                part, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                self.rows[i : i + 256] = encoder(ids).last_hidden_state


def train(minutes: float, cool_down: float) -> None:
    """Train for `minutes` of wall time, saving every five."""
    run = Trainer(seed=0)
    latents = picture_latents(LinearCode.load())
    pool = Pool(30_000, seed=1000 + run.step)
    rng = np.random.default_rng(run.step)
    alphas = scheduler().alphas_cumprod
    generator = torch.Generator().manual_seed(run.step)
    forward: Any = torch.compile(run.unet.to(memory_format=torch.channels_last))
    started = saved = time.time()
    before, seen, losses = run.minutes, 0, []
    while (spent := (time.time() - started) / 60) < minutes:
        run.minutes = before + spent
        rate = RATE * min(1, (run.step + 1) / WARM_UP)
        if cool_down:
            rate *= min(1.0, max(minutes - spent, 0) / cool_down)
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        chosen = rng.integers(len(pool.pick), size=BATCH)
        rows = pool.rows[torch.from_numpy(chosen)]
        clean = latents[torch.from_numpy(pool.pick[chosen]), torch.from_numpy(pool.ground[chosen])]
        noise = torch.randn(clean.shape, generator=generator)
        spread = (
            torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)
        ) / BATCH
        t = (spread * 1000).long()
        signal = alphas[t].sqrt()[:, None, None, None]
        sigma = (1 - alphas[t]).sqrt()[:, None, None, None]
        noisy = (signal * clean + sigma * noise).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(noisy, t, rows).sample
        loss = (out.float() - (signal * noise - sigma * clean)).square().mean()
        run.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.unet.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        if run.step % FOLLOW == 0:
            run.follow()
        seen += BATCH
        losses.append(loss.item())
        if run.step % 100 == 0:
            pace = (time.time() - started) / seen * 1e3
            print(
                f"{run.step * BATCH} loss {np.mean(losses[-100:]):.4f} {pace:.1f} ms/sample",
                flush=True,
            )
        if time.time() - saved > 240:
            run.save()
            saved = time.time()
    run.save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--cool-down", type=float, default=0.0)
    options = parser.parse_args()
    Path(OUT).mkdir(parents=True, exist_ok=True)
    train(options.minutes, options.cool_down)
