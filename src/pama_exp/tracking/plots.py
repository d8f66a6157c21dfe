"""Pictures of a run: its operating points with the true front, and its training curves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from pama_exp.config.naming import shortened

# The palette of Okabe and Ito, whose colours colour-blind readers can distinguish.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_LONGEST = 60  # characters of a text; a longer one would leave no room for the axes


def save(figure: Figure, path: Path) -> None:
    """Write a picture at 150 dots per inch. A `$` in a text starts no mathematics; a missing glyph becomes a box."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(short_text(text.get_text()))
        text.set_parse_math(False)
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(path, dpi=150)


def short_text(text: str) -> str:
    """The text of at most 60 characters, with a question mark for each unprintable one."""
    return shortened(text, _LONGEST)


def front_plot(
    path: Path,
    front: NDArray[np.float64] | None,
    before: Sequence[float],
    after: Sequence[float],
    names: Sequence[str],
    title: str,
    conditioned: Sequence[Sequence[float]] = (),
) -> None:
    """Draw mean rewards of two objectives: the true front, what it dominates, the SFT policy and the aligned policy.

    Args:
        path: of the picture.
        front: points (M, 2) of the true front; None if it is not known.
        before: rewards of the SFT policy.
        after: rewards of the aligned policy.
        names: of the two objectives.
        title: of the picture.
        conditioned: the points of a conditioned policy, in the order of its preferences.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    if front is not None:
        curve = front[np.lexsort((-front[:, 1], front[:, 0]))]
        curve = np.concatenate([[[0.0, curve[:, 1].max()]], curve, [[curve[:, 0].max(), 0.0]]])
        axes.fill(*np.concatenate([curve, [[0.0, 0.0]]]).T, color=_COLORS[5], alpha=0.15, lw=0)
        axes.plot(*curve[1:-1].T, color=_COLORS[0], lw=2, label="true front")
    axes.annotate(
        "",
        (after[0], after[1]),
        (before[0], before[1]),
        arrowprops={"arrowstyle": "->", "color": "0.4", "lw": 1.5, "shrinkA": 6, "shrinkB": 6},
    )
    if conditioned:
        axes.plot(*np.array(conditioned).T, "s-", ms=5, lw=1, color=_COLORS[1], alpha=0.6, label="by preference")
    axes.plot(*before, "o", ms=9, color="0.45", label="SFT policy")
    axes.plot(*after, "D", ms=9, color=_COLORS[1], label="aligned policy")
    values = [*before, *after, *(value for point in conditioned for value in point)]
    high, low = max(1.0, *values) * 1.03, min(0.0, *values)
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(low, high), ylim=(low, high))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", frameon=True)
    save(figure, path)


def curves_plot(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Draw over steps: training rewards, rewards on held-out prompts (gold if known), and the KL in nats.

    Args:
        path: of the picture.
        rows: of metrics.jsonl.
        names: of the objectives.
    """
    has_gold = any(row.get(f"eval/gold/{name}/mean") is not None for row in rows for name in names)
    held_out = "gold" if has_gold else "proxy"
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, color in zip(names, _COLORS * 2, strict=False):
        keys = (f"reward/{name}/mean", f"eval/{held_out}/{name}/mean")
        for axes, key, style in zip(panels, keys, ("-", "o-"), strict=False):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axes.plot(*np.array(points).T, style, color=color, label=name, lw=1.5, ms=4)
    kl = [(row["step"], row["kl/response"]) for row in rows if row.get("kl/response") is not None]
    if kl:
        panels[2].plot(*np.array(kl).T, color="0.3", lw=1.5)
    titles = (
        "training reward",
        "gold reward, held-out prompts" if has_gold else "reward, held-out prompts",
        "KL to the reference (nats)",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    save(figure, path)
