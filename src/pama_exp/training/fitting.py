"""Lightning's trainer around an alignment: several steps, from a checkpoint where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from pama_exp.config.schema import TrainerConfig
from pama_exp.training.alignment import Alignment
from pama_exp.training.strategies import trainer_settings


def make_trainer(settings: TrainerConfig, callbacks: Sequence[Any], loggers: Sequence[Logger]) -> Trainer:
    """Lightning's trainer, quiet: the record, the console and the checkpoints are the callbacks' work."""
    return Trainer(
        **trainer_settings(settings),
        max_epochs=1,
        logger=list(loggers) or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # a step is every process's
    )


def fit_alignment(
    module: Alignment,
    settings: TrainerConfig,
    steps: int,
    callbacks: Sequence[Any],
    loggers: Sequence[Logger] = (),
    checkpoint: Path | None = None,
) -> None:
    """Run the steps that are left.

    Args:
        module: what is trained.
        settings: where it runs.
        steps: of the whole run.
        callbacks: Lightning's.
        loggers: Lightning's.
        checkpoint: to go on from; None starts at the first step.
    """
    indices: Any = range(steps)  # a sized sequence serves as a map-style data set
    data: DataLoader[int] = DataLoader(indices, batch_size=None)
    make_trainer(settings, callbacks, loggers).fit(module, data, ckpt_path=checkpoint, weights_only=True)
