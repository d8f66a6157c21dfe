"""The training curves of the report: selected metrics of all runs, down-sampled to one grid of steps.

Legend: R runs, P points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pama_exp.comparison import Run

_VALUES = 400_000  # in all curves of a report together: about 3 MB of text
_POINTS = (16, 120)  # least and most points of a curve
_DIGITS = 4

Series = list[float | None]


def curve_keys(names: Sequence[str]) -> list[str]:
    """The names of the metrics that the page draws for these objectives."""
    kinds = ("reward/{}/mean", "eval/gold/{}/mean", "eval/proxy/{}/mean", "solver/weight/{}", "solver/binding_share/{}")
    return [kind.format(name) for kind in kinds for name in names] + ["kl/response", "response/length"]


def points_for(runs: int, keys: int) -> int:
    """The number of points per curve that keeps a page of so many runs and metrics small."""
    low, high = _POINTS
    return min(high, max(low, _VALUES // max(1, runs * keys)))


def curves_of(runs: Sequence[Run], names: Sequence[str], points: int) -> dict[str, Any]:
    """Every run's curves on common grids of at most `points` steps.

    Returns:
        {steps: (P,) training steps, eval_steps: (P',) steps of evaluations, series: [{metric: one value or null per
        step} for each run]}. If there are more steps than points, a value is the mean over the steps nearest to the
        point. `kl/eval` is the KL at the steps of evaluations.
    """
    keys = curve_keys(names)
    tables = [run.metrics for run in runs]
    training = _grid([row["step"] for rows in tables for row in rows if "kl/response" in row], points)
    evaluations = _grid(
        [row["step"] for rows in tables for row in rows if any(k.startswith("eval/") for k in row)], points
    )
    series = []
    for rows in tables:
        curves: dict[str, Series] = {}
        for key in keys:
            values = _on_grid(rows, key, evaluations if key.startswith("eval/") else training)
            if any(value is not None for value in values):
                curves[key] = values
        kl = {row["step"]: row["kl/response"] for row in rows if row.get("kl/response") is not None}
        if kl and len(evaluations):
            curves["kl/eval"] = _kl_at(kl, evaluations)
        series.append(curves)
    return {"steps": training.tolist(), "eval_steps": evaluations.tolist(), "series": series}


def rounded(value: Any) -> Any:
    """The value, or each float in nested mappings and lists, with four significant digits; None if not finite."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(child) for child in value]
    return value


def _grid(steps: Sequence[int], points: int) -> np.ndarray:
    all_steps = np.unique(np.array(steps, dtype=int))
    if len(all_steps) <= points:
        return all_steps
    chosen = np.unique(np.linspace(0, len(all_steps) - 1, points).round().astype(int))
    return np.asarray(all_steps[chosen])


def _on_grid(rows: Sequence[Mapping[str, Any]], key: str, grid: np.ndarray) -> Series:
    """One value per step of the grid: the mean of the metric over the rows nearest to the step."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if not pairs or len(grid) == 0:
        return [None] * len(grid)
    steps, values = np.array(pairs, dtype=float).T
    places = np.abs(steps[:, None] - grid[None, :]).argmin(1)
    counts = np.bincount(places, minlength=len(grid))
    sums = np.bincount(places, weights=values, minlength=len(grid))
    return [rounded(float(s / c)) if c else None for s, c in zip(sums, counts, strict=True)]


def _kl_at(kl: Mapping[int, float], evaluations: np.ndarray) -> Series:
    """The KL of the training step before each evaluation: 0 before training, None where the run has not got so far."""
    last = max(kl)
    steps = np.array(sorted(kl))
    return [
        0.0 if step == 0 else None if step > last else rounded(kl[int(steps[np.abs(steps - step).argmin()])])
        for step in evaluations.tolist()
    ]
