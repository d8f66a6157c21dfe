"""A stage that tests run in one process and in two: several short alignments, and what their parameters came to."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.config.schema import Config
from pama_exp.parallel import collectives
from pama_exp.policy.sharding import gathered
from pama_exp.tracking.record import RunRecord
from pama_exp.training.callbacks import Checkpoints
from pama_exp.training.fitting import make_trainer


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """{case: {differs_across_processes, …}}; the parameters of each case are saved in the run's folder."""
    config = setup.config
    cases = config.stage["cases"]
    return {name: align(configured(config, changes), record, name) for name, changes in cases.items()}


def configured(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with `solver`, `strategy` and settings of `training` and `conditioning` changed."""
    t, trainer = copy.deepcopy(config.training), config.trainer
    for key, value in changes.get("training", {}).items():
        owner: Any = t
        *path, last = key.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    if collectives.size() > 1:
        trainer = replace(trainer, strategy=changes["strategy"])
    trainer = replace(trainer, **changes.get("trainer", {}))
    told = replace(config.conditioning, **changes.get("conditioning", {}))
    return replace(config, training=t, trainer=trainer, solver=changes.get("solver", config.solver), conditioning=told)


def align(config: Config, record: RunRecord, name: str) -> dict[str, Any]:
    steps, folder = config.training.steps, record.checkpoints / name
    module = fit(config, folder, steps)
    parameters = parameters_of(module)
    if collectives.is_main():
        torch.save(parameters, record.folder / f"{name}.pt")
    others = collectives.gather(parameters)
    apart = [(a - b).abs().max().item() for other in others for a, b in zip(other, parameters, strict=True)]
    # The last step again, by a module that has seen nothing but the checkpoint before it.
    resumed = parameters_of(fit(config, folder / "again", steps, resume=folder / f"step-{steps - 1:08d}.ckpt"))
    again = [(a - b).abs().max().item() for a, b in zip(resumed, parameters, strict=True)]
    return {"apart": max(apart), "resumed": max(again), "metrics": module.metrics, "bill": vars(module.cost)}


def fit(config: Config, folder: Any, steps: int, resume: Any = None) -> Any:
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    trainer = make_trainer(config.trainer, [Checkpoints(folder, 1, steps)], [])
    loader = DataLoader(range(steps), batch_size=None)
    trainer.fit(module, loader, ckpt_path=resume, weights_only=False)
    return module


def parameters_of(module: Any) -> list[torch.Tensor]:
    with gathered(module.policy):
        return [p.detach().clone() for p in module.policy.parameters()]
