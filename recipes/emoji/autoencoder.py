"""The emoji autoencoder: sharp pictures from the linear code, and the code from pictures.

The latents are fixed in advance (see latents.py), so the decoder is a regression: from the code,
blurred by a little noise because a denoiser's latents are never exact, to the picture, in absolute
error and in error of the differences between neighbours, which is what the eye calls sharp. The
encoder regresses the code. `python -m recipes.emoji.autoencoder --minutes M` resumes from its
checkpoint and anneals over M.
"""

import argparse
import time

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from recipes.emoji.data import CACHE, load
from recipes.emoji.latents import CHANNELS, LinearCode, composites
from recipes.emoji.resume import Resumable
from recipes.emoji.world import BACKGROUNDS, SIZE

OUT = CACHE / "autoencoder"
BATCH, RATE, NOISE = 16, 1e-3, 0.1


def build() -> AutoencoderKL:
    """64x64 pictures to 8x8x8 latents, about 6.5 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 128, 192),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def picture_loss(drawn: Tensor, true: Tensor) -> Tensor:
    """Absolute and squared error of values, absolute error of edges."""
    sharp = sum((a - b).abs().mean() for a, b in zip(edges(drawn), edges(true), strict=True))
    return (drawn - true).abs().mean() + 2 * (drawn - true).square().mean() + sharp


def train(minutes: float) -> None:
    """Train encoder and decoder side by side; only pairs that are not held out."""
    torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
    vae, code = build(), LinearCode.load()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    run = Resumable(OUT / "state.pt", vae=vae, optimiser=optimiser)
    rng, generator = np.random.default_rng(run.step), torch.Generator().manual_seed(run.step)
    trained = np.flatnonzero(~load().held_out)
    started = time.time()
    errors: list[tuple[float, float]] = []
    while (spent := (time.time() - started) / 60) < minutes:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (run.step + 1) / 100) * max(0.01, 1 - spent / minutes)
        true = composites(rng.choice(trained, BATCH), rng.integers(len(BACKGROUNDS), size=BATCH))
        latents = code.encode(true)
        blur = NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        noisy = latents + blur * torch.randn(latents.shape, generator=generator)
        few = true[: BATCH // 4]
        with torch.autocast("cpu", torch.bfloat16):
            drawn = vae.decode(noisy).sample.float()
            mean, spread = vae.encoder(few).float().chunk(2, 1)
        coded = (mean - latents[: len(few)]).square().mean()
        loss = picture_loss(drawn, true) + coded + 0.001 * (spread + 10).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        run.step += 1
        errors.append((((drawn - true) / 2).square().mean().item(), coded.item()))
        if run.step % 100 == 0:
            mse, coding = np.mean(errors[-100:], 0)
            print(
                f"{run.step * BATCH} {-10 * np.log10(mse):.2f} dB, code {coding:.4f}, "
                f"{spent:.1f} min",
                flush=True,
            )
        if run.step % 1000 == 0:
            run.save()
    run.save()
    vae.save_pretrained(OUT / "model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    train(parser.parse_args().minutes)
