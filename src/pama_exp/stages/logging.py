"""Lightning's loggers for a run: those that `logger.kinds` names, each writing inside the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from pama_exp.labels import method_label
from pama_exp.schema import Config, identity
from pama_exp.tracking import run_wandb
from pama_exp.tracking.console import note
from pama_exp.tracking.loggers import Trackio
from pama_exp.tracking.record import RunRecord


class TrackioLogger(Logger):
    """Lightning's side of a trackio run."""

    def __init__(self, run: Trackio) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        """The logger's name."""
        return "trackio"

    @property
    def version(self) -> str:
        """One run, one version."""
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The run was given its configuration when it was made."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row."""
        self.run.log(metrics, step=step or 0)

    def finalize(self, status: str) -> None:
        """Write what is pending."""
        self.run.finish()


def start_logging(config: Config, record: RunRecord) -> tuple[Any, list[Logger]]:
    """The W&B run (None where there is none) and Lightning's loggers, W&B's among them."""
    wanted, folder, wandb_run = config.logger.kinds, record.folder, None
    loggers: list[Logger] = []
    if "wandb" in wanted:
        wandb_run = _start_wandb(config, record)
        if wandb_run is not None:
            loggers.append(WandbLogger(experiment=wandb_run))
    if "csv" in wanted:  # each start of a resumed run is a version of its own
        loggers.append(CSVLogger(folder, name="csv", flush_logs_every_n_steps=1))
    if "tensorboard" in wanted:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False))
    if "trackio" in wanted:
        settings = identity(asdict(config))
        is_resumed = record.last_step() > 0
        run = Trackio(config.logger.project, record.folder.name, config.logger.group, settings, folder, is_resumed)
        loggers.append(TrackioLogger(run))
    return wandb_run, loggers


def finish_logging(
    config: Config, record: RunRecord, wandb_run: Any, result: Mapping[str, Any], front: np.ndarray | None
) -> None:
    """The front, the summary and, if wanted, the artifacts go to W&B; nothing where there is no run."""
    if wandb_run is None:
        return
    means = result["objectives"]
    kind = "gold" if front is not None else "proxy"
    before, after = ([mean[when][kind] for mean in means.values()] for when in ("before", "after"))
    run_wandb.log_front(wandb_run, list(means), kind, before, after, front)
    if config.logger.artifacts:
        run_wandb.log_artifacts(wandb_run, record.folder)
    run_wandb.finish(wandb_run, result)


def _start_wandb(config: Config, record: RunRecord) -> Any:
    mode, message = run_wandb.resolve_mode(config.logger.mode, record.folder)
    if message:
        note(message)
    return run_wandb.start_run(
        record.folder,
        mode,
        project=config.logger.project,
        name=record.folder.name,
        run_id=record.run_id,
        group=config.logger.group,
        job_type=config.stage.get("name", "align"),
        tags=[method_label(asdict(config)), *config.objectives, *config.logger.tags],
        config=identity(asdict(config)),
    )
