"""Pictures of a comparison: operating points with intervals, attainment bands, gradients over time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pama_exp.comparison.groups import Group
from pama_exp.comparison.load import Run
from pama_exp.comparison.reference import TrueFront, reference_of
from pama_exp.comparison.seedwise import Comparison
from pama_exp.config.naming import rewards_of
from pama_exp.metrics import fronts
from pama_exp.tracking.plots import save, short_text

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#7F3C8D", "#80BA5A")
_MARKERS = "osD^vP*XhpdH<>8"


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every picture that the comparison has data for, as PNG; returns their paths."""
    painters: dict[str, Callable[[Comparison], Figure | None]] = {
        "operating_points.png": operating_points,
        "attainment.png": attainment,
        "gradients.png": gradients,
    }
    paths = []
    for name, paint in painters.items():
        figure = paint(comparison)
        if figure is not None:
            save(figure, folder / name)
            paths.append(folder / name)
    return paths


def operating_points(comparison: Comparison) -> Figure | None:
    """Mean rewards with intervals: a panel per pair of 2 or 3 objectives, parallel coordinates for more; None for 1."""
    names = comparison.objectives
    if len(names) == 1:
        return None
    if len(names) > 3:
        return _parallel(comparison)
    pairs = list(itertools.combinations(range(len(names)), 2))
    figure = Figure(figsize=(5.2 * len(pairs) + 1.6, 4.8), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (i, j) in zip(panels, pairs, strict=True):
        _true_front(axes, comparison, i, j)
        for index, family in enumerate(_families(comparison)):
            members = [group for group in comparison.groups if group.family == family]
            color, marker = _style(index)
            after = [(_after(g, names[i], comparison.kind), _after(g, names[j], comparison.kind)) for g in members]
            x, y = ([pair[side].mean for pair in after] for side in (0, 1))
            errors = [_errors([pair[side] for pair in after]) for side in (0, 1)]
            axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt=marker, color=color, ms=6, lw=1, label=family)
            if len(members) > 1:
                order = np.argsort(x)
                axes.plot(np.array(x)[order], np.array(y)[order], color=color, lw=0.8, alpha=0.5)
        axes.set(xlabel=names[i], ylabel=names[j])
        axes.grid(alpha=0.25)
    panels[0].set_title(
        f"{rewards_of(comparison.kind)} on unseen prompts, mean and 95 % (three seeds or more)", fontsize=10
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def attainment(comparison: Comparison) -> Figure | None:
    """Median and quartile attainment surfaces of each front of several points; None unless there are two objectives."""
    wide = [front for front in comparison.fronts if len(front.points) > 1 and front.attainment]
    if len(comparison.objectives) != 2 or not wide:
        return None
    figure = Figure(figsize=(6.8, 4.8), layout="constrained")
    axes = figure.subplots()
    _true_front(axes, comparison, 0, 1)
    order = _families(comparison)
    for front in wide:
        color, marker = _style(order.index(front.family))
        low, middle, high = (_stairs(front.attainment[level]) for level in ("75", "50", "25"))
        grid = np.unique(np.concatenate([low[:, 0], middle[:, 0], high[:, 0]]))
        axes.fill_between(grid, _height(low, grid), _height(high, grid), step="pre", color=color, alpha=0.18, lw=0)
        axes.step(grid, _height(middle, grid), where="pre", color=color, lw=1.4, label=front.family)
        axes.plot(*np.array(front.points).T, marker, color=color, ms=4)
    axes.set(xlabel=comparison.objectives[0], ylabel=comparison.objectives[1])
    axes.set_title("Attained by half of the seeds, and by a quarter to three quarters", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def gradients(comparison: Comparison) -> Figure | None:
    """Stationarity residual ‖Σ w g‖ and the mean pairwise cosine of the objectives' gradients over steps."""
    panels: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
        "stationarity residual": lambda row: row.get("solver/stationarity_residual"),
        "mean cosine between objectives' gradients": _mean_cosine,
    }
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    drawn = False
    for axes, (title, read) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for index, family in enumerate(_families(comparison)):
            runs = [run for group in comparison.groups if group.family == family for run in group.runs]
            steps, values = series(runs, read)
            if len(steps) == 0:
                continue
            drawn = True
            color, marker = _style(index)
            axes.plot(steps, values.mean(0), marker, ls="-", color=color, ms=3, lw=1.2, label=family)
            if len(values) > 1:
                axes.fill_between(steps, *np.quantile(values, [0.25, 0.75], axis=0), color=color, alpha=0.15, lw=0)
        axes.set(xlabel="step")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure if drawn else None


def series(runs: Sequence[Run], read: Callable[[Mapping[str, Any]], float | None]) -> tuple[np.ndarray, np.ndarray]:
    """(S,) the steps at which every run has a value, and (R,S) the values."""
    tables = [{row["step"]: value for row in run.metrics if (value := read(row)) is not None} for run in runs]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    return np.array(shared), np.array([[table[step] for step in shared] for table in tables])


def _mean_cosine(row: Mapping[str, Any]) -> float | None:
    cosines = [value for key, value in row.items() if key.startswith("solver/cosine/") and value is not None]
    return float(np.mean(cosines)) if cosines else None


def _parallel(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(1.5 * len(comparison.objectives) + 3, 4.4), layout="constrained")
    axes = figure.subplots()
    order = _families(comparison)
    for group in comparison.groups:
        color, marker = _style(order.index(group.family))
        after = [_after(group, name, comparison.kind) for name in comparison.objectives]
        places = np.arange(len(after))
        axes.errorbar(places, [a.mean for a in after], yerr=_errors(after), marker=marker, color=color, ms=5, lw=1,
                      label=group.label)  # fmt: skip
    axes.set_xticks(range(len(comparison.objectives)), map(short_text, comparison.objectives))
    axes.set(ylabel=rewards_of(comparison.kind))
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _true_front(axes: Axes, comparison: Comparison, i: int, j: int) -> None:
    """Draw the projection of the true front on two objectives: its nondominated points."""
    reference = reference_of(comparison.groups[0].runs[0], comparison.objectives, comparison.kind)
    if isinstance(reference, TrueFront):
        points = reference.points[:, [i, j]]
        points = points[fronts.nondominated(points)]
        axes.plot(*points[np.lexsort((-points[:, 1], points[:, 0]))].T, color="0.25", lw=1.6, label="true front")


def _families(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(group.family for group in comparison.groups))


def _style(index: int) -> tuple[str, str]:
    return _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]


def _after(group: Group, name: str, kind: str) -> Any:
    return group.rewards[name][kind]["after"]


def _errors(intervals: Sequence[Any]) -> np.ndarray:
    """(2,G) distances from the means of G intervals to their ends; 0 where there is no interval."""
    return np.array(
        [
            [i.mean - i.low if i.low is not None else 0.0 for i in intervals],
            [i.high - i.mean if i.high is not None else 0.0 for i in intervals],
        ]
    )


def _stairs(points: Sequence[Sequence[float]]) -> np.ndarray:
    ordered = np.array(sorted(map(tuple, points))).reshape(-1, 2)
    return np.concatenate([[[0.0, ordered[:, 1].max()]], ordered]) if len(ordered) else np.zeros((1, 2))


def _height(stairs: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The second objective attained together with at least this much of the first."""
    return np.array([stairs[stairs[:, 0] >= x - 1e-12, 1].max(initial=0.0) for x in grid])
