"""Distances between two sets of pictures' features: FID, KID, CMMD. Float64.

Each is a formula on features; which extractor gave them decides what the number means, and numbers
of different extractors are never to be compared.
"""

import numpy as np

Features = np.ndarray
"""Pictures by features."""
KID_DEGREE = 3
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Bandwidth and factor of arXiv:2401.09603, section 4, for unit-length CLIP embeddings."""


def fid(one: Features, other: Features) -> float:
    """Fréchet distance of Gaussians fitted to both (arXiv:1706.08500, equation 6).

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½). Biased upwards for few pictures.
    """
    one, other = _wide(one), _wide(other)
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    apart = one.mean(0) - other.mean(0)
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * cross)


def kid(one: Features, other: Features) -> float:
    """Unbiased squared MMD with the kernel (xᵀy / d + 1)³ (arXiv:1801.01401, section 4)."""
    one, other = _wide(one), _wide(other)
    width = one.shape[1]

    def kernel(a: Features, b: Features) -> Features:
        return (a @ b.T / width + 1) ** KID_DEGREE

    return float(
        _mean_of_others(kernel(one, one))
        + _mean_of_others(kernel(other, other))
        - 2 * kernel(one, other).mean()
    )


def cmmd(one: Features, other: Features) -> float:
    """Scaled squared MMD with a Gaussian kernel (arXiv:2401.09603, section 4).

    As in its authors' code, pictures count against themselves too, so it is never negative.
    """
    one, other = _wide(one), _wide(other)

    def mean(a: Features, b: Features) -> float:
        apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return float(np.exp(-np.clip(apart, 0, None) / (2 * CMMD_SIGMA**2)).mean())

    return CMMD_SCALE * (mean(one, one) + mean(other, other) - 2 * mean(one, other))


def _mean_of_others(kernel: Features) -> float:
    """Mean off the diagonal."""
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def _wide(features: Features) -> Features:
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or len(found) < 2:
        raise ValueError(f"features of at least two pictures are needed: got {found.shape}")
    return found
