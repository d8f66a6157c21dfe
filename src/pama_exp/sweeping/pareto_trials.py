"""The result of a search: its nondominated trials, as a table, a JSON file and a picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from pama_exp.errors import UserError
from pama_exp.metrics.fronts import hypervolume, nondominated
from pama_exp.storage.files import replace_text
from pama_exp.sweeping.jobs import Job
from pama_exp.sweeping.study import describe
from pama_exp.tracking import reading
from pama_exp.tracking.plots import save


class ParetoFront:
    """The front of a study: the trials that no other trial dominates.

    Args:
        folder: for front.json and front.png.
        directions: {objective: maximize or minimize}.
        worst: the worst value of each objective, the reference point of the hypervolume; None if it is not known.
    """

    def __init__(self, folder: Path, directions: Mapping[str, str], worst: Sequence[float] | None) -> None:
        self.folder, self.names, self.worst = folder, list(directions), worst
        self.signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in directions.values()])

    def write(self, trials: Sequence[FrozenTrial], jobs: Mapping[int, Job]) -> dict[str, Any]:
        """Write front.json and front.png from all completed trials.

        Args:
            trials: with values.
            jobs: {number of a trial: its job} of this process.

        Returns:
            The content of front.json: {objectives, worst, hypervolume, hypervolumes (one after each trial, in the
            order in which they ended), front, trials}.
        """
        ended = sorted(trials, key=lambda trial: trial.datetime_complete or trial.datetime_start)
        values = np.array([trial.values for trial in ended]).reshape(len(ended), len(self.names))
        on_front = nondominated(values * self.signs)
        volumes = self._hypervolumes(values)
        folders = self._folders() | {number: str(job.folder) for number, job in jobs.items()}
        rows = [describe(trial) | {"folder": folders.get(trial.number)} for trial in ended]
        content = {
            "objectives": self.names,
            "worst": self.worst,
            "hypervolume": volumes[-1] if volumes else None,
            "hypervolumes": volumes,
            "front": [row for row, on in zip(rows, on_front, strict=True) if on],
            "trials": rows,
        }
        replace_text(self.folder / "front.json", json.dumps(content, indent=1) + "\n")
        if len(rows) > 0:
            picture(self.folder / "front.png", values, on_front, self.names)
        return content

    def show(self, content: Mapping[str, Any], failed: int) -> None:
        """Print the front as a table, the best in the first objective first.

        Args:
            content: of front.json.
            failed: number of failed trials.
        """
        front = content["front"]
        console = Console(soft_wrap=True)
        if front:
            table = Table(title=f"The front: {len(front)} of {len(content['trials'])} trials", title_justify="left")
            for name in ("trial", *self.names, *front[0]["params"]):
                table.add_column(name, justify="right")
            for row in sorted(front, key=lambda row: -row["values"][0] * self.signs[0]):
                numbers = [f"{value:.3f}" for value in row["values"]]
                params = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row["params"].values()]
                table.add_row(str(row["trial"]), *numbers, *params)
            console.print(table)
        if failed:
            console.print(f"{failed} trial{'s' * (failed != 1)} failed; the study knows as much.", highlight=False)
        if content["hypervolume"] is not None:
            console.print(f"Hypervolume of the front: {content['hypervolume']:.4f}", highlight=False)

    def _folders(self) -> dict[int, str]:
        """{trial: run folder} of the trials of earlier sweeps, from front.json."""
        try:
            rows = reading.read_json(self.folder / "front.json", reading.check_front)["trials"]
        except UserError:  # it is missing, or damaged and written again
            return {}
        return {row["trial"]: row["folder"] for row in rows}

    def _hypervolumes(self, values: NDArray[np.float64]) -> list[float]:
        if self.worst is None:
            return []
        corner = np.array(self.worst) * self.signs
        return [hypervolume(values[: i + 1] * self.signs, corner) for i in range(len(values))]


def picture(path: Path, values: NDArray[np.float64], on_front: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Write a plot of each pair of objectives, or of a single objective over the trials.

    Args:
        path: of the PNG file.
        values: (trials, objectives).
        on_front: (trials,) whether the trial is on the front.
        names: of the objectives.
    """
    pairs = list(itertools.combinations(range(len(names)), 2))
    columns = min(3, max(1, len(pairs)))
    rows = -(-max(1, len(pairs)) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    if not pairs:
        axes = next(panels)
        axes.plot(np.arange(len(values))[~on_front], values[~on_front, 0], "o", color="0.6")
        axes.plot(np.arange(len(values))[on_front], values[on_front, 0], "D", color="#D55E00")
        axes.set(xlabel="trial", ylabel=names[0])
    for x, y in pairs:
        axes = next(panels)
        axes.plot(values[~on_front, x], values[~on_front, y], "o", color="0.6", label="dominated")
        best = values[on_front][np.argsort(values[on_front, x])]
        style = "D-" if len(names) == 2 else "D"
        axes.plot(best[:, x], best[:, y], style, color="#D55E00", label="front", drawstyle="steps-pre")
        axes.set(xlabel=names[x], ylabel=names[y])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    for axes in panels:
        axes.set_axis_off()
    save(figure, path)
