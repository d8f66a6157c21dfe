"""Pictures of a run: its operating point against the front, and its training curves."""

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

# Okabe and Ito's palette, told apart by colour-blind readers too.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_LONGEST = 60  # characters of a text in a picture; longer ones would push the axes out of it


def save(figure: Figure, path: Path) -> None:
    """Write a picture whose texts are shown as they are written: a `$` is no mathematics, what has no glyph a box."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(drawn(text.get_text()))
        text.set_parse_math(False)
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(path, dpi=150)


def drawn(text: str) -> str:
    """Text as a picture can show it: printable, and of a length that leaves room for the rest."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "…"


def front_plot(
    path: Path,
    front: NDArray[np.float64] | None,
    before: Sequence[float],
    after: Sequence[float],
    names: Sequence[str],
    title: str,
    asked: Sequence[Sequence[float]] = (),
) -> None:
    """Two objectives: the true front, what it dominates, and the way from the SFT policy to the aligned one.

    `asked` are a conditioned policy's points, in the order of its preferences.
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
    if asked:
        axes.plot(*np.array(asked).T, "s-", ms=5, lw=1, color=_COLORS[1], alpha=0.6, label="by preference")
    axes.plot(*before, "o", ms=9, color="0.45", label="SFT policy")
    axes.plot(*after, "D", ms=9, color=_COLORS[1], label="aligned policy")
    shown = [*before, *after, *(value for point in asked for value in point)]
    high, low = max(1.0, *shown) * 1.03, min(0.0, *shown)
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(low, high), ylim=(low, high))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", frameon=True)
    save(figure, path)


def curves_plot(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Rewards on training prompts, those on held-out ones (gold where there are any), and the KL, over steps."""
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
