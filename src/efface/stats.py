"""Numbers with their intervals: shares, paired differences, ratios. 95 % throughout.

scipy does the statistics. Resampling has a fixed seed, so that the same rows give the same numbers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

from efface.core import Estimate

RESAMPLES = 4000
Floats = np.ndarray
"""One-dimensional, of numbers or truth values."""


def share(hits: Sequence[bool], *, skipped: int = 0) -> Estimate:
    """How many of them, with Wilson's interval."""
    if not hits:
        return Estimate(None, None, 0, skipped, "share")
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return Estimate(sum(hits) / len(hits), (float(low), float(high)), len(hits), skipped, "share")


def of_samples(
    statistic: Callable[..., Floats],
    samples: Sequence[Sequence[float | bool]],
    *,
    paired: bool,
    skipped: int = 0,
    unit: str = "share",
) -> Estimate:
    """A statistic of samples with its bootstrap interval (percentiles).

    `statistic` takes arrays and an axis. `paired`: samples are of the same things, one by one.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    count = min(len(a) for a in arrays)
    if not count:
        return Estimate(None, None, 0, skipped, unit)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*arrays, axis=-1))
        if not np.isfinite(value):
            return Estimate(None, None, count, skipped, unit)
        if count < 2:
            return Estimate(value, None, count, skipped, unit)
        low, high = bootstrap(
            arrays,
            statistic,
            paired=paired,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 10**6 // count),
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    interval = (float(low), float(high)) if np.isfinite([low, high]).all() else None
    return Estimate(value, interval, count, skipped, unit)


def difference(one: Sequence[bool], other: Sequence[bool], *, skipped: int = 0) -> Estimate:
    """Share in one less share in the other, of the same things."""
    return of_samples(
        lambda a, b, axis: a.mean(axis) - b.mean(axis), [one, other], paired=True, skipped=skipped
    )


def ratio(one: Sequence[bool], other: Sequence[bool], *, skipped: int = 0) -> Estimate:
    """Share in one over share in the other, of the same things."""
    return of_samples(
        lambda a, b, axis: a.mean(axis) / b.mean(axis), [one, other], paired=True, skipped=skipped
    )


def mcnemar(one: Sequence[bool], other: Sequence[bool], *, skipped: int = 0) -> Estimate:
    """McNemar's exact p-value that both share one rate, of the same things."""
    if not one:
        return Estimate(None, None, 0, skipped, "p")
    only_one = sum(a and not b for a, b in zip(one, other, strict=True))
    only_other = sum(b and not a for a, b in zip(one, other, strict=True))
    apart = only_one + only_other
    p = binomtest(only_one, apart).pvalue if apart else 1.0
    return Estimate(float(p), None, len(one), skipped, "p")


def harmonic(samples: Sequence[Sequence[bool]], *, skipped: int = 0) -> Estimate:
    """Harmonic mean of the shares of several groups; 0 where one of them is."""

    def mean(*groups: Floats, axis: int) -> Floats:
        shares = np.stack([g.mean(axis) for g in groups])
        return np.where((shares > 0).all(0), len(groups) / (1 / shares).sum(0), 0.0)

    return of_samples(mean, samples, paired=False, skipped=skipped)
