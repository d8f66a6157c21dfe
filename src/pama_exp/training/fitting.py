"""Running an alignment with Lightning's trainer, from the start or from a checkpoint."""

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


class StreamedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints while they are serialised; Lightning would first assemble the file in memory.

    A file left incomplete by a kill is only a temporary one: see `Checkpoints.save`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint to the path."""
        torch.save(checkpoint, path)


def make_trainer(settings: TrainerConfig, callbacks: Sequence[Any], loggers: Sequence[Logger]) -> Trainer:
    """Lightning's trainer without its own progress bar, summary and checkpoints; the callbacks do that work."""
    arguments = trainer_settings(settings)
    return Trainer(
        **{**arguments, "plugins": [*arguments["plugins"], StreamedCheckpointIO()]},
        max_epochs=1,
        logger=list(loggers) or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # every process does every step
    )


def fit_alignment(
    module: Alignment,
    settings: TrainerConfig,
    steps: int,
    callbacks: Sequence[Any],
    loggers: Sequence[Logger] = (),
    checkpoint: Path | None = None,
) -> None:
    """Run an alignment to its last step.

    Args:
        module: the alignment.
        settings: the trainer's settings: accelerator, devices, strategy.
        steps: number of steps of the whole run.
        callbacks: Lightning callbacks.
        loggers: Lightning loggers.
        checkpoint: the file to resume from; None starts at the first step.
    """
    indices: Any = range(steps)  # a sized sequence serves as a map-style data set
    data: DataLoader[int] = DataLoader(indices, batch_size=None)
    make_trainer(settings, callbacks, loggers).fit(module, data, ckpt_path=checkpoint, weights_only=True)
