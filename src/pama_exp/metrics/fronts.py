"""Measures of sets of operating points; every objective is maximised.

A point is a policy's vector of mean rewards, or one response's vector of rewards. Do not mix the two in one set:
single responses spread far beyond what any policy attains on average.

Legend: M points, F points of a reference front, N objectives. Points are anything that numpy converts to floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike, NDArray

from pama_exp.errors import UserError


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the (M, N) points dominate above the (N,) reference point.

    A point that is not above the reference in every objective adds nothing; an empty set has volume 0.
    """
    corner = np.asarray(reference, dtype=np.float64)
    above = _matrix(points, len(corner))
    above = above[(above > corner).all(axis=1)]
    return float(moocore.hypervolume(above, ref=corner, maximise=True)) if len(above) else 0.0


def igd_plus(points: ArrayLike, front: ArrayLike) -> float:
    """IGD+: mean distance by which the (M, N) points fall short of the (F, N) front (Ishibuchi et al. 2015).

    mean_f min_m ‖max(f − m, 0)‖;  infinite for an empty set of points.

    Raises:
        UserError: for an empty front.
    """
    target = _front(front)
    values = _matrix(points, target.shape[1])
    return float(moocore.igd_plus(values, ref=target, maximise=True)) if len(values) else float("inf")


def epsilon(points: ArrayLike, front: ArrayLike) -> float:
    """Additive ε-indicator: the least amount to add to all (M, N) points for them to cover the (F, N) front.

    max_f min_m max_n (f − m);  infinite for an empty set of points (Zitzler et al. 2003).

    Raises:
        UserError: for an empty front.
    """
    target = _front(front)
    values = _matrix(points, target.shape[1])
    return float(moocore.epsilon_additive(values, ref=target, maximise=True)) if len(values) else float("inf")


def nondominated(points: ArrayLike) -> Bool[np.ndarray, " M"]:
    """True for each of the (M, N) points that no other point dominates.

    Equal points do not dominate each other.
    """
    values = np.asarray(points, dtype=np.float64)
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(values, maximise=True, keep_weakly=True), dtype=bool)


def spacing(points: ArrayLike) -> float:
    """Spacing: the deviation of the distances from each of the (M, N) points to its nearest neighbour (Schott 1995).

    √(Σ (d̄ − d_m)² / (M − 1)),  d_m = min_{k ≠ m} ‖m − k‖₁;  0 for an even spread, and for fewer than two points.
    """
    values = np.asarray(points, dtype=np.float64)
    if len(values) < 2:
        return 0.0
    distances = np.abs(values[:, None] - values[None]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(1).std(ddof=1))


def attainment(sets: Sequence[ArrayLike], levels: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Attainment surfaces of several sets of points, one set per seed, for 2 or 3 objectives.

    Args:
        sets: one (M, N) array per seed.
        levels: shares of the sets, in per cent.

    Returns:
        For each level, the nondominated points that at least this share of the sets weakly dominate.
    """
    stacked = np.concatenate([np.asarray(points, dtype=np.float64) for points in sets])
    owners = np.repeat(np.arange(len(sets)), [len(np.asarray(points)) for points in sets])
    # moocore's attainment function minimises.
    table = moocore.eaf(-stacked, owners, percentiles=list(levels))
    return {level: -table[table[:, -1] == level, :-1] for level in levels}


@dataclass(frozen=True)
class Calibration:
    """Each objective's mean and deviation under the SFT policy, fixed before training: the units of comparisons.

    Volumes are measured from two deviations below the mean. Neither units nor corner depend on the runs compared.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def normalise(self, points: ArrayLike) -> NDArray[np.float64]:
        """(M, N) points in units of the calibration, (x − mean) / deviation; a deviation of 0 counts as 1."""
        scale = np.where(np.array(self.deviation) > 0, self.deviation, 1.0)
        return np.asarray((_matrix(points, len(self.mean)) - np.array(self.mean)) / scale)

    @property
    def reference(self) -> NDArray[np.float64]:
        """(N,) the reference point of volumes, in normalised units: −2 for every objective."""
        return np.full(len(self.mean), -2.0)


def _matrix(points: ArrayLike, columns: int) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64).reshape(-1, columns)


def _front(front: ArrayLike) -> NDArray[np.float64]:
    target = np.asarray(front, dtype=np.float64)
    if target.size == 0:
        raise UserError("The reference front has no points.", "Give at least one point, one row per point.")
    return target
