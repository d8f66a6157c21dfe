"""The plots of the page as PNG and SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pama_exp.report.table_files import grid_of
from pama_exp.tracking.plots import save, short_text

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_MAX_LEGEND = 14  # entries; with more the legend is left out

Section = Mapping[str, Any]


def draw_section(section: Section, folder: Path) -> list[Path]:
    """Write every plot that the section has data for, as PNG and SVG; returns the paths."""
    names = section["objectives"]
    painters: dict[str, Callable[[Section], Figure | None]] = {
        "points": _points if 2 <= len(names) <= 3 else _parallel,
        "training-rewards": lambda s: _curves(s, [(f"reward/{n}/mean", f"{n}: reward in training") for n in names]),
        "gold-rewards": lambda s: _curves(s, [(f"eval/gold/{n}/mean", f"{n}: gold reward, held-out") for n in names]),
        "kl": lambda s: _paths(s, [("kl/eval", f"eval/{s['kind']}/{n}/mean", n) for n in names], "KL", s["kind"]),
        "proxy-gold": lambda s: _paths(
            s, [(f"eval/proxy/{n}/mean", f"eval/gold/{n}/mean", n) for n in names], "proxy", "gold"
        ),
        "weights": lambda s: _curves(s, [(f"solver/weight/{n}", f"{n}: weight") for n in names]),
        "binding-shares": lambda s: _curves(s, [(f"solver/binding_share/{n}", f"{n}: binding share") for n in names]),
    }
    paths = []
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pama-exp"}):
        for name, paint in painters.items():
            figure = paint(section)
            if figure is not None:
                for suffix in (".png", ".svg"):
                    save(figure, folder / f"{name}{suffix}")
                    paths.append(folder / f"{name}{suffix}")
    return paths


def _groups(section: Section) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in section["runs"]:
        groups.setdefault(run["group"], []).append(run)
    return groups


def _style(section: Section, run: Mapping[str, Any]) -> tuple[str, str]:
    index = section["families"].index(run["family"])
    return _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]


def _finish(figure: Figure, panels: Sequence[Axes]) -> Figure:
    for axes in panels:
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    if labels and len(labels) <= _MAX_LEGEND:
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns + 1.8, 3.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _points(section: Section) -> Figure | None:
    names, kind = section["objectives"], section["kind"]
    done = {label: [r for r in runs if r["after"]] for label, runs in _groups(section).items()}
    if not any(done.values()):
        return None
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    figure, panels = _panels(len(pairs))
    for axes, (i, j) in zip(panels, pairs, strict=True):
        for front in section["fronts"]:
            if front["pair"] == [names[i], names[j]]:
                x, y = np.array(front["points"]).T
                axes.fill([0, *x, x[-1], 0], [y[0], *y, 0, 0], color=_COLORS[5], alpha=0.12, lw=0)
                axes.plot(x, y, color="0.2", lw=1.6, label="true front")
        for label, runs in done.items():
            if runs:
                color, marker = _style(section, runs[0])
                points = np.array([[run["after"][kind][k] for k in (i, j)] for run in runs])
                axes.plot(*points.T, marker, color=color, ms=4, alpha=0.6)
                axes.plot(*points.mean(0), marker, color=color, ms=9, mec="white", label=label)
        axes.set(xlabel=names[i], ylabel=names[j])
    return _finish(figure, panels)


def _parallel(section: Section) -> Figure | None:
    names, kind = section["objectives"], section["kind"]
    done = {label: [r for r in runs if r["after"]] for label, runs in _groups(section).items()}
    if len(names) < 2 or not any(done.values()):
        return None
    figure, panels = _panels(1)
    for label, runs in done.items():
        if runs:
            color, marker = _style(section, runs[0])
            values = np.array([run["after"][kind] for run in runs])
            panels[0].plot(values.T, color=color, lw=0.6, alpha=0.35)
            panels[0].plot(values.mean(0), marker + "-", color=color, label=label)
    panels[0].set_xticks(range(len(names)), map(short_text, names))
    panels[0].set_ylabel(f"{kind} reward")
    return _finish(figure, panels)


def _curves(section: Section, keys: Sequence[tuple[str, str]]) -> Figure | None:
    """A panel per metric: mean over seeds, and the range from the lowest to the highest seed."""
    present = [pair for pair in keys if any(pair[0] in run["series"] for run in section["runs"])]
    if not present:
        return None
    figure, panels = _panels(len(present))
    for axes, (key, title) in zip(panels, present, strict=True):
        for label, runs in _groups(section).items():
            values = _values(runs, key)
            if values is None:
                continue
            steps, reached = np.array(grid_of(dict(section), key)), ~np.isnan(values).all(0)
            color, _ = _style(section, runs[0])
            steps, values = steps[reached], values[:, reached]
            axes.plot(steps, np.nanmean(values, 0), color=color, label=label)
            axes.fill_between(steps, np.nanmin(values, 0), np.nanmax(values, 0), color=color, alpha=0.15, lw=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
    return _finish(figure, panels)


def _paths(section: Section, keys: Sequence[tuple[str, str, str]], xlabel: str, ylabel: str) -> Figure | None:
    """A panel per pair of metrics: one against the other over the evaluations, means over seeds."""
    present = [t for t in keys if any(t[0] in run["series"] and t[1] in run["series"] for run in section["runs"])]
    if not present:
        return None
    figure, panels = _panels(len(present))
    for axes, (first, second, title) in zip(panels, present, strict=True):
        for label, runs in _groups(section).items():
            x, y = _values(runs, first), _values(runs, second)
            if x is None or y is None:
                continue
            reached = ~(np.isnan(x).all(0) | np.isnan(y).all(0))
            color, marker = _style(section, runs[0])
            middle = np.nanmean(x[:, reached], 0), np.nanmean(y[:, reached], 0)
            axes.plot(*middle, color=color, label=label)
            axes.plot(middle[0][-1:], middle[1][-1:], marker, color=color)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return _finish(figure, panels)


def _values(runs: Sequence[Mapping[str, Any]], key: str) -> np.ndarray | None:
    """(R,P) values of a metric, NaN where a run has none; None if no run has any."""
    rows = [run["series"][key] for run in runs if key in run["series"]]
    return np.array(rows, dtype=float) if rows else None
