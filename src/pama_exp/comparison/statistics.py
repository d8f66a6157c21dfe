"""Means with Student's t intervals, paired tests, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEAST = 3  # seeds that an interval needs: that of two seeds, ± 9 deviations, is of no use
_SIGNS = 2**12  # sign assignments: up to this many all are tried, beyond it this many are drawn


@dataclass(frozen=True)
class Interval:
    """A mean over `count` values with a 95 % interval; `low` and `high` are None for fewer than three values."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """The paired tests of two groups over the seeds that both have.

    Attributes:
        difference: the first group's mean minus the second's, with its interval.
        p: of the two-sided paired t-test.
        p_sign: of the two-sided sign-flip test, which assumes only symmetry; never below 2^(1 − seeds).
    """

    difference: Interval
    p: float
    p_sign: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The mean, with `t_interval` from three values on; None if there are no values."""
    if len(values) == 0:
        return None
    mean = float(np.mean(values))
    if len(values) < LEAST:
        return Interval(mean, None, None, len(values))
    low, high = t_interval(values, level)
    return Interval(mean, float(low), float(high), len(values))


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Student's interval for the mean over the last axis: mean ± t s / √n, with t of n − 1 degrees of freedom.

    Its coverage is exact for normal values. For few values that are bounded and far from symmetric the coverage is
    lower: see docs/comparing.md.

    Returns:
        The lower and the upper ends, each of the shape of `values` without its last axis.
    """
    data = np.asarray(values, dtype=np.float64)
    count = data.shape[-1]
    half = stats.t.ppf((1 + level) / 2, count - 1) * data.std(-1, ddof=1) / np.sqrt(count)
    return data.mean(-1) - half, data.mean(-1) + half


def paired_test(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Paired tests of two {seed: value} over the seeds that both have; None if these are fewer than two."""
    seeds = sorted(set(first) & set(second))
    if len(seeds) < 2:
        return None
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    difference = interval(differences.tolist())
    assert difference is not None
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():  # all equal: t is 0/0 or infinite
        p = 1.0 if difference.mean == 0.0 else 0.0
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    scale = float(np.abs(differences).max()) or 1.0

    def mean(signed: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        """Rounded, so that means that are equal but for rounding count as equal."""
        rounded: NDArray[np.float64] = np.round(signed.mean(axis) / scale, 12)
        return rounded

    flipped = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=_SIGNS, rng=0)
    return Paired(difference, p, float(flipped.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values (Holm 1979), in the order of `p_values`.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)), p_(1) ≤ … ≤ p_(m)
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
