"""Lightning loggers of a run, as listed in `logger.kinds`; each writes inside the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from pama_exp.config.naming import identity, method_label
from pama_exp.config.schema import Config
from pama_exp.safety.secrets import redacted
from pama_exp.tracking import run_wandb
from pama_exp.tracking.backends import Trackio, survive
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord
from pama_exp.training.callbacks import Tracker


class TrackioLogger(Logger):
    """A Lightning logger that writes to a trackio run."""

    def __init__(self, run: Trackio) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        """The logger's name."""
        return "trackio"

    @property
    def version(self) -> str:
        """Empty: a run has one version."""
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Do nothing: the trackio run already has the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one row of metrics."""
        self.run.log(metrics, step=step or 0)

    def finalize(self, status: str) -> None:
        """Finish the trackio run."""
        self.run.finish()


def choose_mode(config: Config, record: RunRecord) -> str:
    """W&B's mode for the run; prints how to sync if it is offline. Called before any work."""
    if "wandb" not in config.logger.kinds:
        return "disabled"
    mode, message = run_wandb.resolve_mode(config.logger.mode, record.folder)
    if message:
        note(message)
    return mode


def start_logging(config: Config, record: RunRecord, mode: str) -> tuple[Any, list[Logger]]:
    """Start all loggers: the W&B run (or None) and the Lightning loggers. A logger that fails to start is left out."""
    folder = record.folder
    loggers: list[Logger] = []
    wandb_run = _start_wandb(config, record, mode) if "wandb" in config.logger.kinds else None

    def trackio() -> Logger:
        settings, is_resumed = redacted(identity(asdict(config))), record.last_step() > 0
        name, group = config.logger.project, config.logger.group
        return TrackioLogger(Trackio(name, folder.name, group, settings, folder, is_resumed))

    makers: dict[str, Callable[[], Logger]] = {
        "wandb": lambda: WandbLogger(experiment=wandb_run),
        # Each start of a resumed run is a new version.
        "csv": lambda: CSVLogger(folder, name="csv", flush_logs_every_n_steps=1),
        "tensorboard": lambda: TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False),
        "trackio": trackio,
    }
    for kind, make in makers.items():
        if kind in config.logger.kinds and not (kind == "wandb" and wandb_run is None):
            label = "W&B" if kind == "wandb" else kind
            survive(label, partial(_add, loggers, label, make))
    return wandb_run, loggers


def _add(loggers: list[Logger], label: str, make: Callable[[], Logger]) -> None:
    loggers.append(Tracker(label, make()))


def finish_logging(
    config: Config, record: RunRecord, wandb_run: Any, result: Mapping[str, Any], front: np.ndarray | None
) -> None:
    """Log the front, the summary and, if configured, the artifacts to W&B; does nothing without a W&B run."""
    if wandb_run is None:
        return
    means = result["objectives"]
    kind = "gold" if front is not None else "proxy"
    before, after = ([mean[when][kind] for mean in means.values()] for when in ("before", "after"))
    run_wandb.log_front(wandb_run, list(means), kind, before, after, front)
    if config.logger.artifacts:
        run_wandb.log_artifacts(wandb_run, record.folder)
    run_wandb.finish(wandb_run, result)


def _start_wandb(config: Config, record: RunRecord, mode: str) -> Any:
    patience = {"finish_seconds": 600.0} if config.logger.artifacts else {}
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
        **patience,
    )
