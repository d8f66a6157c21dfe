"""What multi-objective costs: the solve's share of a step, and a step's time over N objectives, for each solver.

    python benchmarks/overhead.py [rounds] [steps]

Writes benchmarks/results/overhead.json, overhead.md and overhead.png. The policy does not change (learning rate 0), so
that every run generates the same responses; runs are interleaved, and ratios are taken within a round.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from pama_exp import app, schema
from pama_exp.stages.align import build_alignment, make_trainer
from pama_exp.stages.task import make_task
from pama_exp.stages.trained import sft_policy

RESULTS = Path(__file__).parent / "results"
PROGRAMS = ["helpful", "concise", "harmless", "honest", "humor", "polite"]
SOLVERS = ["pama", "linear", "mgda", "mgda-ub"]
COUNTS = [1, 2, 4, 8]


class Timings(Callback):
    """Each step's phases."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):  # noqa: D102
        self.rows.append({k: v for k, v in pl_module.metrics.items() if k.startswith("time/")})


def config_of(solver: str, count: int, steps: int, cache: str) -> schema.Config:
    """The default configuration with `count` gold objectives; beyond six, programs repeat under other names."""
    schema.register_resolvers()
    overrides = [
        f"solver={solver}",
        "reward=gold",
        "training.learning_rate=0",
        "training.diagnostics_every=0",
        "sft.steps=20",
    ]
    with initialize_config_dir(str(app.CONF), version_base="1.3"):
        config = schema.typed(compose("config", [*overrides, f"training.steps={steps}", f"cache_dir={cache}"]))
    template = config.objectives["helpful"]
    names = [PROGRAMS[i % 6] for i in range(count)]
    config.objectives = {
        f"{name}{i // 6 or ''}": replace(template, scorers={"factworld": {"program": name}})
        for i, name in enumerate(names)
    }
    return config


def measure(solver: str, count: int, steps: int, cache: str) -> list[dict[str, float]]:
    """The phases of each step after the first, which warms up."""
    config = config_of(solver, count, steps + 1, cache)
    task = make_task(config)
    module = build_alignment(config, task, str(sft_policy(config, task.world)))
    timings = Timings()
    make_trainer(config, [timings], []).fit(module, DataLoader(range(steps + 1), batch_size=None))
    return timings.rows[1:]


def main(rounds: int = 3, steps: int = 4) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds: dict[tuple[str, int], list[float]] = {(s, n): [] for s in SOLVERS for n in COUNTS}
    solve: dict[tuple[str, int], list[float]] = {key: [] for key in seconds}
    with tempfile.TemporaryDirectory() as cache:
        for round_ in range(rounds):
            for solver, count in seconds:
                rows = measure(solver, count, steps, cache)
                seconds[solver, count].append(statistics.median(row["time/step"] for row in rows))
                solve[solver, count].append(statistics.median(row["time/solve"] / row["time/step"] for row in rows))
                print(
                    f"round {round_ + 1}/{rounds}  {solver:8s} N={count}  {seconds[solver, count][-1]:.3f} s",
                    flush=True,
                )
    table = [
        {
            "solver": solver,
            "objectives": count,
            "seconds_per_step": statistics.median(seconds[solver, count]),
            "ratio_to_one_objective": statistics.median(
                a / b for a, b in zip(seconds[solver, count], seconds[solver, 1], strict=True)
            ),
            "solve_share": statistics.median(solve[solver, count]),
        }
        for solver, count in seconds
    ]
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    command = f"python benchmarks/overhead.py {rounds} {steps}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overhead.json").write_text(
        json.dumps({"command": command, "machine": machine, "rows": table}, indent=1)
    )
    write_table(table, command)
    draw(table)


def write_table(table: list[dict], command: str) -> None:
    lines = [
        f"Made by `{command}`.",
        "",
        "| solver | " + " | ".join(f"N = {n}" for n in COUNTS) + " | solve's share of a step at N = 8 |",
        "|---|" + "---|" * (len(COUNTS) + 1),
    ]
    for solver in SOLVERS:
        rows = {row["objectives"]: row for row in table if row["solver"] == solver}
        cells = [f"{rows[n]['seconds_per_step']:.2f} s ({rows[n]['ratio_to_one_objective']:.2f}×)" for n in COUNTS]
        share = f"{rows[8]['solve_share']:.3%}" if solver in ("pama", "linear") else "in the update"
        lines.append(f"| {solver} | " + " | ".join(cells) + f" | {share} |")
    (RESULTS / "overhead.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def draw(table: list[dict]) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for solver, marker, color in zip(SOLVERS, "osD^", ["#0072B2", "#009E73", "#D55E00", "#CC79A7"], strict=True):
        rows = [row for row in table if row["solver"] == solver]
        axes.plot(
            [r["objectives"] for r in rows],
            [r["ratio_to_one_objective"] for r in rows],
            marker=marker,
            color=color,
            label=solver,
        )
    axes.set(xlabel="objectives N", ylabel="time of a step, relative to N = 1", xticks=COUNTS, ylim=(0, None))
    axes.set_title("Cost of objectives (gold scorers, tiny model, CPU)", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(RESULTS / "overhead.png", dpi=150)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
