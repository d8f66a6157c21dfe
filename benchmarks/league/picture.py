"""The confirmation as a picture: the share against the least gain, a panel for each world, kind of rewards and N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pama_exp.comparison.statistics import interval

from .confirm import LEADER, LEVEL, OPPONENTS, confirmed
from .plan import OBJECTIVES, REWARDS, WORLDS
from .rank import Seeds, blocks
from .table import Row

# Okabe and Ito's colours, which are told apart in most kinds of colour blindness; the shapes do without colour.
_COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = ("o", "D", "s", "^", "v", "P", "X")
_STYLES = dict(zip((LEADER, LEVEL, *OPPONENTS), zip(_COLOURS, _SHAPES, strict=True), strict=True))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture of the blocks that have run; none where no block has."""
    panels = {
        (world, n, reward): by_entry
        for world in WORLDS
        for (protocol, n, reward), by_entry in blocks(confirmed(rows, world)).items()
        if protocol == "reward"
    }
    lines = [
        (world, reward)
        for world in WORLDS
        for reward in REWARDS
        if any((world, n, reward) in panels for n in OBJECTIVES)
    ]
    if not lines:
        return
    figure = Figure(figsize=(10, 3.0 * len(lines) + 0.6), layout="constrained")
    grid = figure.subplots(len(lines), len(OBJECTIVES), squeeze=False)
    for (world, reward), axes in zip(lines, grid, strict=True):
        for n, panel in zip(OBJECTIVES, axes, strict=True):
            rewards = "exact" if reward == "gold" else "learned"
            panel.set_title(f"{n} objectives, {rewards} rewards, {world} world", fontsize=9)
            _panel(panel, panels.get((world, n, reward), {}))
        axes[0].set_ylabel("share of the true hypervolume, %")
    for panel in grid[-1]:
        panel.set_xlabel("least gain, starting deviations")
    marks = [
        Line2D([], [], color=colour, marker=shape, linestyle="", label=entry)
        for entry, (colour, shape) in _STYLES.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(panel: Axes, by_entry: Mapping[str, Seeds]) -> None:
    """Means of the entries with Student's 95 % intervals, and a line at a least gain of 0."""
    panel.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    panel.grid(alpha=0.25)
    if not by_entry:
        panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center", color="0.4")
    for entry, (colour, shape) in _STYLES.items():
        if entry in by_entry:
            gains, shares = ([row[c] for row in by_entry[entry].values()] for c in ("least_gain", "share"))
            shares = [100 * share for share in shares]
            panel.errorbar(
                fmean(gains),
                fmean(shares),
                xerr=_half_width(gains),
                yerr=_half_width(shares),
                color=colour,
                marker=shape,
                linewidth=1,
                capsize=2,
            )
    panel.set_ylim(bottom=0)


def _half_width(values: Sequence[float]) -> float | None:
    student = interval(values)
    if student is None or student.low is None or student.high is None:
        return None
    return (student.high - student.low) / 2
