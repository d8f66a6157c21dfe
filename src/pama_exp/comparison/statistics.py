"""Means with bootstrap intervals, paired tests, and the correction for many of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

_RESAMPLES = 4000
_EXACT = 12  # pairs up to which all 2^n signs are tried


@dataclass(frozen=True)
class Interval:
    """A mean over `count` seeds with a 95 % interval; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """Two groups over the seeds they share.

    Attributes:
        difference: the first's mean minus the second's, with its interval.
        p: of the two-sided paired t-test.
        p_sign: of the two-sided sign-flip test, which assumes symmetry alone; it cannot fall below 2^(1 − seeds).
    """

    difference: Interval
    p: float
    p_sign: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Mean and percentile bootstrap interval (Efron 1979), the same for the same values; None of no values."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) == 0:
        return None
    if len(data) == 1:
        return Interval(float(data[0]), None, None, 1)
    source = np.random.default_rng(0)
    means = data[source.integers(0, len(data), (_RESAMPLES, len(data)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired_test(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Tests over the seeds that both have; None where these are fewer than two."""
    seeds = sorted(set(first) & set(second))
    if len(seeds) < 2:
        return None
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    difference = interval(differences.tolist())
    assert difference is not None
    return Paired(difference, _paired_t(differences), _sign_flip(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values (Holm 1979), in the order given.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)), p_(1) ≤ … ≤ p_(m)
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _paired_t(differences: np.ndarray) -> float:
    """2 P(T > |mean| √n / s), T of n − 1 degrees of freedom."""
    count, mean, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * student.sf(abs(mean) * math.sqrt(count) / deviation, count - 1))


def _sign_flip(differences: np.ndarray) -> float:
    """Share of the sign assignments whose |mean| is at least the one seen."""
    count = len(differences)
    if count <= _EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
    else:
        seen = np.ones((1, count))
        signs = np.concatenate([seen, np.random.default_rng(0).choice((-1.0, 1.0), (2**_EXACT, count))])
    means = np.abs((signs * differences).mean(1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())
