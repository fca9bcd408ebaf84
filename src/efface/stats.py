"""Numbers with their intervals: shares, paired differences, ratios. 95 % throughout.

scipy does the exact tests. Resampling has a fixed seed: the same rows give the same numbers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest

from efface.core import Estimate

RESAMPLES = 4000
AT_ONCE = 10**6
"""Numbers drawn in one go."""
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
        again = _resampled(statistic, arrays, paired=paired)
    if not np.isfinite(again).all():  # a share of 0 to divide by is likely: there is no bound
        return Estimate(value, None, count, skipped, unit)
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), count, skipped, unit)


def _resampled(
    statistic: Callable[..., Floats], arrays: Sequence[Floats], *, paired: bool
) -> Floats:
    """The statistic of samples drawn from the samples with replacement."""
    rng, found = np.random.default_rng(0), list[Floats]()
    width = max(len(a) for a in arrays)
    step = max(1, AT_ONCE // width)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        if paired:
            chosen = rng.integers(width, size=(count, width))
            drawn = [a[chosen] for a in arrays]
        else:
            drawn = [a[rng.integers(len(a), size=(count, len(a)))] for a in arrays]
        found.append(np.atleast_1d(statistic(*drawn, axis=-1)))
    return np.concatenate(found)


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
