"""How good a set of operating points is; every objective is maximised.

Legend: M points, F points of a reference front, N objectives. Points are anything numpy reads as floats.
"""

from __future__ import annotations

import moocore
import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike, NDArray

from pama_exp.errors import UserError


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the (M, N) points dominate and what itself dominates the (N,) reference.

    A point that is not above the reference in every objective contributes nothing; an empty set has volume 0.
    """
    corner = np.asarray(reference, dtype=np.float64)
    above = _matrix(points, len(corner))
    above = above[(above > corner).all(axis=1)]
    return float(moocore.hypervolume(above, ref=corner, maximise=True)) if len(above) else 0.0


def igd_plus(points: ArrayLike, front: ArrayLike) -> float:
    """Mean over the (F, N) front of the least distance by which the (M, N) points fall short (Ishibuchi et al. 2015).

    mean_f min_m ‖max(f − m, 0)‖;  infinite for an empty set of points.

    Raises:
        UserError: for an empty front.
    """
    target = _front(front)
    given = _matrix(points, target.shape[1])
    return float(moocore.igd_plus(given, ref=target, maximise=True)) if len(given) else float("inf")


def epsilon(points: ArrayLike, front: ArrayLike) -> float:
    """The least amount that, added to every objective of the (M, N) points, lets them cover the (F, N) front.

    max_f min_m max_n (f − m);  infinite for an empty set of points (Zitzler et al. 2003, additive).

    Raises:
        UserError: for an empty front.
    """
    target = _front(front)
    given = _matrix(points, target.shape[1])
    return float(moocore.epsilon_additive(given, ref=target, maximise=True)) if len(given) else float("inf")


def nondominated(points: ArrayLike) -> Bool[np.ndarray, " M"]:
    """True for each of the (M, N) points that no other exceeds somewhere and nowhere falls short of.

    Equal points do not dominate each other.
    """
    given = np.asarray(points, dtype=np.float64)
    if len(given) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(given, maximise=True, keep_weakly=True), dtype=bool)


def _matrix(points: ArrayLike, columns: int) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64).reshape(-1, columns)


def _front(front: ArrayLike) -> NDArray[np.float64]:
    target = np.asarray(front, dtype=np.float64)
    if target.size == 0:
        raise UserError("The reference front has no points.", "Give at least one point, one row per point.")
    return target
