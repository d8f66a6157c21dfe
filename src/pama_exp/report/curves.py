"""What a run's metrics look like on a page: the curves worth showing, on one grid of steps, down-sampled.

Legend: R runs, P points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pama_exp.comparison import Run

_VALUES = 400_000  # of all curves of a report together: about 3 MB of text
_POINTS = (16, 120)  # a curve keeps at least and at most so many
_DIGITS = 4

Series = list[float | None]


def curve_keys(names: Sequence[str]) -> list[str]:
    """The metrics that the page draws, for these objectives."""
    kinds = ("reward/{}/mean", "eval/gold/{}/mean", "eval/proxy/{}/mean", "solver/weight/{}", "solver/binding_share/{}")
    return [kind.format(name) for kind in kinds for name in names] + ["kl/response", "response/length"]


def points_for(runs: int, keys: int) -> int:
    """How many points a curve may keep, so that all of them stay within the page's budget."""
    low, high = _POINTS
    return min(high, max(low, _VALUES // max(1, runs * keys)))


def curves_of(runs: Sequence[Run], names: Sequence[str], points: int) -> dict[str, Any]:
    """Every run's curves on common grids of at most `points` steps.

    Returns:
        {steps: (P,) of training, eval_steps: (P',) of evaluations, series: per run {key: a value or null per step}}.
        Where there are more steps than points, a value is the mean over the steps nearest to it. `kl/eval` is the KL
        at the evaluations.
    """
    keys = curve_keys(names)
    tables = [run.metrics for run in runs]
    training = _grid([row["step"] for rows in tables for row in rows if "kl/response" in row], points)
    evaluations = _grid(
        [row["step"] for rows in tables for row in rows if any(k.startswith("eval/") for k in row)], points
    )
    series = []
    for rows in tables:
        own: dict[str, Series] = {}
        for key in keys:
            values = _on_grid(rows, key, evaluations if key.startswith("eval/") else training)
            if any(value is not None for value in values):
                own[key] = values
        kl = {row["step"]: row["kl/response"] for row in rows if row.get("kl/response") is not None}
        if kl and len(evaluations):
            own["kl/eval"] = _kl_at(kl, evaluations)
        series.append(own)
    return {"steps": training.tolist(), "eval_steps": evaluations.tolist(), "series": series}


def rounded(value: Any) -> Any:
    """Four significant digits are more than a pixel shows; nested values alike."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(child) for child in value]
    return value


def _grid(steps: Sequence[int], points: int) -> np.ndarray:
    found = np.unique(np.array(steps, dtype=int))
    if len(found) <= points:
        return found
    chosen = np.unique(np.linspace(0, len(found) - 1, points).round().astype(int))
    return np.asarray(found[chosen])


def _on_grid(rows: Sequence[Mapping[str, Any]], key: str, grid: np.ndarray) -> Series:
    """Each value goes to the grid's nearest step; several at one step are averaged."""
    given = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if not given or len(grid) == 0:
        return [None] * len(grid)
    steps, values = np.array(given, dtype=float).T
    places = np.abs(steps[:, None] - grid[None, :]).argmin(1)
    counts = np.bincount(places, minlength=len(grid))
    sums = np.bincount(places, weights=values, minlength=len(grid))
    return [rounded(float(s / c)) if c else None for s, c in zip(sums, counts, strict=True)]


def _kl_at(kl: Mapping[int, float], evaluations: np.ndarray) -> Series:
    """KL of the step that ended at each evaluation; 0 before training; null where the run has not got so far."""
    last = max(kl)
    steps = np.array(sorted(kl))
    return [
        0.0 if step == 0 else None if step > last else rounded(kl[int(steps[np.abs(steps - step).argmin()])])
        for step in evaluations.tolist()
    ]
