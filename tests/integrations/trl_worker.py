"""One of two processes: a first batch of CTWA, whose weights are still those that it began with, then two steps."""

import json
import os
import sys
from pathlib import Path

import trl_tiny
from trl import GRPOConfig

from pama_exp.integrations.trl import MultiObjectiveGRPOTrainer
from pama_exp.solvers import CTWA


def main(folder: Path) -> None:
    """Write what this process has seen to `RANK.json`."""
    made = trl_tiny.trainer(
        MultiObjectiveGRPOTrainer,
        GRPOConfig,
        folder / f"out-{os.environ['RANK']}",
        settings={"per_device_train_batch_size": 4},
        solver=CTWA([0.5, 0.5], target=2.0, group_size=4),
    )
    batch = trl_tiny.first_batch(made)
    found = {"advantages": batch["advantages"].tolist(), "scores": made._scores.tolist()}
    made.train()
    found["log_weights"] = made.solver.state_dict()["log_weights"].tolist()
    found["weights"] = float(
        sum(p.detach().double().sum() for p in made.accelerator.unwrap_model(made.model).parameters())
    )
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
