"""What several objectives cost in whole steps, for each solver, and what share of a step the solve is.

    python benchmarks/objectives.py [rounds]

The default configuration with N gold objectives and a policy that does not change (learning rate 0), so that all
generate the same responses. Contenders take turns; ratios are taken within a turn, to plain PPO, which is PAMA without
Noon at N = 1. Writes benchmarks/results/objectives.json and objectives.png.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from dataclasses import replace

import machine
from hydra import compose, initialize_config_dir
from lightning import Callback
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from turns import Contender, median_ratio, medians, report, take_turns, wait_for_turn

from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.config import resolvers, schema
from pama_exp.training.fitting import make_trainer

METHODS = {"pama": "PAMA", "linear": "linear", "mgda": "MGDA", "mgda-ub": "MGDA-UB"}
PROGRAMS = ["helpful", "concise", "harmless", "honest", "humor", "polite"]
STEPS = {
    "ppo 1": ("pama", 1, ["solver.noon=false"]),
    **{f"{solver} {n}": (solver, n, []) for solver in METHODS for n in (2, 4, 8)},
}


class Turns(Callback):
    """A step when told to, its phases reported."""

    def on_train_batch_start(self, *_):
        wait_for_turn()

    def on_train_batch_end(self, trainer, pl_module, *_):
        report({k.removeprefix("time/"): v for k, v in pl_module.metrics.items() if k.startswith("time/")})


def config_of(solver: str, count: int, cache: str, overrides: list[str]) -> schema.Config:
    """The default configuration with `count` gold objectives; beyond six, programs repeat under other names."""
    resolvers.register()
    settings = ["reward=gold", "training.learning_rate=0", "training.diagnostics_every=0", "sft.steps=20"]
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        config = schema.typed(compose("config", [f"solver={solver}", *settings, *overrides, f"cache_dir={cache}"]))
    template = config.objectives["helpful"]
    config.objectives = {
        f"{PROGRAMS[i % 6]}{i // 6 or ''}": replace(template, scorers={"factworld": {"program": PROGRAMS[i % 6]}})
        for i in range(count)
    }
    return config


def contend(name: str, cache: str, rounds: str) -> None:
    solver, count, overrides = STEPS[name]
    config = config_of(solver, count, cache, overrides)
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    trainer = make_trainer(config.trainer, [Turns()], [])
    trainer.fit(module, DataLoader(range(int(rounds) + 2), batch_size=None))


def write_table(command: str, table: list[dict]) -> None:
    """A row a method, a column a number of objectives."""
    plain, *rows = table
    cell = {(row["solver"], row["objectives"]): row for row in rows}
    counts = sorted({count for _, count in cell})
    lines = [
        f"Made by `{command}`. Plain PPO, which is N = 1 of each: {plain['seconds']['step']:.2f} s a step.",
        "",
        f"| solver | {' | '.join(f'N = {n}' for n in counts)} | solve's share of a step at N = {counts[-1]} |",
        "|---|" + "---|" * (len(counts) + 1),
    ]
    for solver in METHODS:
        times = [f"{cell[solver, n]['seconds']['step']:.2f} s ({cell[solver, n]['ratio_to_ppo']:.2f}×)" for n in counts]
        is_in_update = solver.startswith("mgda")
        share = "in the update" if is_in_update else f"{cell[solver, counts[-1]]['solve_share']:.3%}"
        lines.append(f"| {solver} | {' | '.join(times)} | {share} |")
    (machine.RESULTS / "objectives.md").write_text("\n".join(lines) + "\n")


def draw(table: list[dict]) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("ratio_to_ppo", "peak_memory_ratio_to_ppo"),
        ("time of a step / PPO's", "peak memory / PPO's"),
        strict=True,
    ):
        for (solver, method), color in zip(METHODS.items(), machine.COLORS, strict=False):
            shown = [row for row in table if row["solver"] == solver]
            counts, ratios = [row["objectives"] for row in shown], [row[name] for row in shown]
            axes.plot(counts, ratios, "o-", color=color, label=method)
        axes.set(xlabel="objectives N", ylabel=label, ylim=(0, 1.1 * max(row[name] for row in table)))
    figure.axes[0].legend(frameon=False)
    return figure


def main(rounds: str = "15") -> None:
    with tempfile.TemporaryDirectory() as cache:
        config = config_of("pama", 1, cache, [])
        resolve(config).task.start_policy()  # trained once, for all
        contenders = {name: Contender(__file__, ["--contender", name, cache, rounds]) for name in STEPS}
        rows = take_turns(contenders, int(rounds))
    plain = rows["ppo 1"]
    table = []
    for name, steps in rows.items():
        found = medians(steps)
        table.append(
            {
                "solver": name.split()[0],
                "objectives": STEPS[name][1],
                "ratio_to_ppo": median_ratio(steps, plain),
                "solve_share": found["solve"] / found["step"],
                "peak_memory_ratio_to_ppo": steps[-1]["peak_memory_bytes"] / plain[-1]["peak_memory_bytes"],
                "seconds": found,
            }
        )
        print(
            f"{name:12s} {found['step']:.3f} s  {table[-1]['ratio_to_ppo']:.3f}x PPO  "
            f"solve {table[-1]['solve_share']:.4%}  "
            f"peak {found['peak_memory_bytes'] / 2**20:.0f} MiB ({table[-1]['peak_memory_ratio_to_ppo']:.3f}x)"
        )
    command = f"python benchmarks/objectives.py {rounds}"
    write_table(command, table)
    machine.save(
        "objectives", {"command": command, "machine": machine.describe(), "rows": table, "rounds": rows}, draw(table)
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["--contender"]:
        contend(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
