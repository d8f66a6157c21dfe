"""Draw the pictures of the concept pages: `python docs/scripts/pictures.py` writes docs/pictures/*.svg.

Every curve is computed: PAMA's by `pama_exp.combine`, the true front by FactWorld, areas by the project's hypervolume.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pama_exp import FactWorld, combine
from pama_exp.metrics.fronts import nondominated

FOLDER = Path(__file__).parents[1] / "pictures"
BLUE, ORANGE, GREEN, GREY = "#2b5c9e", "#c8612a", "#2e7d4f", "#777777"
mpl.rcParams.update(
    {"svg.hashsalt": "pama-exp", "svg.fonttype": "none", "font.size": 11, "axes.spines.top": False}
    | {"axes.spines.right": False, "figure.constrained_layout.use": True, "font.family": "sans-serif"}
)


def front() -> plt.Figure:
    """Policies as points, those that none other beats, and the area that they dominate."""
    points = np.array(
        [[0.15, 0.93], [0.40, 0.86], [0.62, 0.70], [0.80, 0.42], [0.90, 0.15], [0.25, 0.55], [0.48, 0.62], [0.66, 0.30]]
    )
    best = points[np.argsort(points[:, 0])][nondominated(points[np.argsort(points[:, 0])])]
    others = np.array([point for point in points if not (best == point).all(1).any()])
    figure, axes = plt.subplots(figsize=(5.6, 4.2))
    corners_x = [0.0, *np.repeat(best[:, 0], 2)]
    corners_y = [*np.repeat(best[:, 1], 2), 0.0]
    axes.fill_between(corners_x, corners_y, step=None, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(corners_x, corners_y, color=BLUE, linewidth=1, alpha=0.5)
    axes.scatter(*best.T, color=BLUE, s=48, zorder=3, label="on the front: no other policy is better in both")
    axes.scatter(
        *others.T, facecolors="none", edgecolors=ORANGE, s=48, zorder=3, label="dominated: another is better in both"
    )
    axes.annotate("the area is the hypervolume", (0.06, 0.10), color=BLUE)
    _square(axes, "helpful", "concise")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False, fontsize=10)
    return figure


def true_front() -> plt.Figure:
    """FactWorld's own front, and where two weightings of a sum end on it."""
    world = FactWorld(num_entities=12, values_per_attribute=6)
    known = world.true_front(["helpful", "concise"], "test")
    points = known.points[np.argsort(known.points[:, 0])]
    figure, axes = plt.subplots(figsize=(5.6, 4.2))
    axes.plot(*points.T, color=BLUE, label="the true front of FactWorld")
    for weight, colour in ((0.3, ORANGE), (0.7, GREEN)):
        weights = np.array([weight, 1 - weight])
        end = points[(points @ weights).argmax()]
        axes.scatter(*end, color=colour, s=90, zorder=3)
        axes.axline(end, slope=-weight / (1 - weight), color=colour, linewidth=1, linestyle="--",
                    label=f"the best for {weight:.1f} helpful + {1 - weight:.1f} concise")  # fmt: skip
    _square(axes, "helpful", "concise", top=1.15)
    axes.legend(loc="lower left", frameon=False, fontsize=10)
    return figure


def projection() -> plt.Figure:
    """Theorem 1 on the line of numbers: three cases."""
    cases = {
        "all positive: the least one": [0.8, 1.5, 2.6],
        "on both sides of 0: they cancel": [-1.4, 0.7, 1.9],
        "all negative: the one nearest to 0": [-2.7, -1.6, -0.6],
    }
    figure, rows = plt.subplots(3, 1, figsize=(6.4, 3.6), sharex=True)
    for axes, (title, values) in zip(rows, cases.items(), strict=True):
        advantages = torch.tensor(values)[:, None, None]
        combined, _ = combine(advantages, torch.ones(1, 1, dtype=torch.bool), noon=False)
        axes.plot([min(values), max(values)], [0, 0], color=BLUE, linewidth=7, alpha=0.25, solid_capstyle="butt")
        axes.scatter(values, [0] * len(values), color=BLUE, s=40, zorder=3)
        axes.scatter([combined.item()], [0], marker="D", color=ORANGE, s=70, zorder=4)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    rows[-1].set_xlabel("advantage of one token")
    return figure


def combined() -> plt.Figure:
    """What becomes of two advantages of one token: a weighted sum, PAMA without Noon, PAMA."""
    ticks = torch.linspace(-2, 2, 201)
    first, second = torch.meshgrid(ticks, ticks, indexing="xy")
    pair = torch.stack([first.flatten(), second.flatten()])[:, None, :]
    mask = torch.ones(pair.shape[1:], dtype=torch.bool)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "even weighted sum": lambda: pair.mean(0),
        "PAMA without Noon": lambda: combine(pair, mask, noon=False)[0],
        "PAMA": lambda: combine(pair, mask)[0],
    }
    figure, panels = plt.subplots(1, 3, figsize=(9.2, 3.4), sharey=True)
    for axes, (title, way) in zip(panels, ways.items(), strict=True):
        values = way().reshape(first.shape).numpy()
        image = axes.pcolormesh(ticks.numpy(), ticks.numpy(), values, cmap="RdBu", vmin=-2, vmax=2, rasterized=True)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set(title=title, xlabel="advantage for helpful", aspect="equal")
    panels[0].set_ylabel("advantage for concise")
    figure.colorbar(image, ax=panels, shrink=0.85, label="combined advantage")
    return figure


def tokens_left() -> plt.Figure:
    """How many tokens PAMA reinforces, with more and more objectives that know nothing of one another."""
    generator = torch.Generator().manual_seed(0)
    counts = range(1, 9)
    kept = []
    for count in counts:
        advantages = torch.randn(count, 1, 200_000, generator=generator)
        combined, _ = combine(advantages, torch.ones(1, advantages.shape[2], dtype=torch.bool))
        kept.append(100 * (combined > 0).double().mean().item())
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    axes.bar(list(counts), kept, color=BLUE, alpha=0.8)
    for count, share in zip(counts, kept, strict=True):
        axes.annotate(f"{share:.1f}", (count, share + 1), ha="center", fontsize=9)
    axes.set(xlabel="number of objectives, independent of one another", ylabel="tokens reinforced, %")
    return figure


PICTURES = {picture.__name__: picture for picture in (front, true_front, projection, combined, tokens_left)}


def main(folder: Path = FOLDER) -> None:
    """Draw them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        figure = draw()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _square(axes: Axes, x: str, y: str, top: float = 1.05) -> None:
    axes.set(xlim=(0, 1.05), ylim=(0, top), xlabel=x, ylabel=y)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
