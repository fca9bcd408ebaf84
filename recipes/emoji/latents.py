"""The linear picture code behind the autoencoder: principal components of 8x8 patches.

Eight numbers a patch give a 64x64 picture an 8x8x8 latent. The components' scales are compressed
(square root) so that the denoiser sees coarse content first without drowning in it. The
autoencoder's encoder is taught to reproduce this code and its decoder to draw sharp pictures from
it, so the denoiser can train before the autoencoder exists.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.emoji.data import CACHE, Pictures, load, on_background, whole
from recipes.emoji.world import BACKGROUNDS

PATCH, CHANNELS = 8, 8


def to_patches(pictures: Tensor) -> Tensor:
    """[n, 3, s, s] -> [n, 192, s/8, s/8]."""
    return torch.nn.functional.pixel_unshuffle(pictures, PATCH)


@dataclass(frozen=True)
class LinearCode:
    """Latent = scale * basis (patch - mean); `basis` [8, 192] orthonormal rows."""

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def encode(self, pictures: Tensor) -> Tensor:
        """[n, 3, s, s] in -1..1 -> [n, 8, s/8, s/8] of unit variance over the training pictures."""
        centred = to_patches(pictures) - self.mean[:, None, None]
        return torch.einsum("kp,nphw->nkhw", self.basis, centred) * self.scale[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """The least-squares picture of a latent, clipped to -1..1."""
        flat = latents / self.scale[:, None, None]
        patches = torch.einsum("kp,nkhw->nphw", self.basis, flat) + self.mean[:, None, None]
        return torch.nn.functional.pixel_shuffle(patches, PATCH).clamp(-1, 1)

    @classmethod
    def load(cls) -> "LinearCode":
        """The code of the training pictures, fitted on first use."""
        path = CACHE / "code.npz"
        if not path.exists():
            code = fit()
            with whole(path) as fresh:
                np.savez(fresh, **{k: v.numpy() for k, v in vars(code).items()})
        with np.load(path) as data:
            return cls(**{k: torch.from_numpy(data[k]) for k in data.files})


def composites(index: np.ndarray, ground: np.ndarray, pictures: Pictures | None = None) -> Tensor:
    """Pictures by their index and background index: [n, 3, 64, 64] in -1..1.

    `pictures`: none: those of the world.
    """
    rgba, colours = (pictures or load()).rgba, list(BACKGROUNDS.values())
    drawn = [on_background(rgba[i], colours[g]) for i, g in zip(index, ground, strict=True)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit() -> LinearCode:
    """Principal components over every trained picture on every background."""
    trained = np.flatnonzero(~load().held_out)
    grid = [(i, g) for i in trained for g in range(len(BACKGROUNDS))]
    index, ground = map(np.array, zip(*grid, strict=True))
    patches = to_patches(composites(index, ground)).double()
    flat = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    basis, power = vectors.flip(1).T[:CHANNELS], values.flip(0)[:CHANNELS]
    scale = power**-0.25
    scale = scale / (power * scale**2).mean().sqrt()
    return LinearCode(basis.float().contiguous(), mean.float(), scale.float())


def picture_latents(code: LinearCode) -> Tensor:
    """Latents of every picture on every background: [pictures, backgrounds, 8, 8, 8]."""
    count, grounds = len(load().thing), len(BACKGROUNDS)
    rows = [code.encode(composites(np.full(grounds, i), np.arange(grounds))) for i in range(count)]
    return torch.stack(rows)


if __name__ == "__main__":
    fitted = LinearCode.load()
    sample = composites(np.arange(0, 748, 5), np.zeros(150, int))
    error = ((fitted.decode(fitted.encode(sample)) - sample) / 2).pow(2).mean()
    print(f"linear code: {-10 * error.log10():.1f} dB, scales {fitted.scale.tolist()}")
