"""Lightning's trainer around an alignment: several steps, from a checkpoint where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from pama_exp.config.schema import TrainerConfig
from pama_exp.training.alignment import Alignment
from pama_exp.training.strategies import trainer_settings


class WholeFiles(TorchCheckpointIO):
    """Checkpoints written as they are serialised: Lightning would put the whole file together in memory first.

    A file that a kill leaves half written is a temporary one: see `Checkpoints.save`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write it."""
        torch.save(checkpoint, path)


def make_trainer(settings: TrainerConfig, callbacks: Sequence[Any], loggers: Sequence[Logger]) -> Trainer:
    """Lightning's trainer, quiet: the record, the console and the checkpoints are the callbacks' work."""
    where = trainer_settings(settings)
    return Trainer(
        **{**where, "plugins": [*where.get("plugins", []), WholeFiles()]},
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
