"""Lightning callbacks of a run: metrics to the record, evaluations, checkpoints, random states, signals."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from pama_exp.data.prompts import PromptStream
from pama_exp.errors import Interrupted, UserError
from pama_exp.parallel import collectives
from pama_exp.tracking import checkpoints
from pama_exp.tracking.backends import survive
from pama_exp.tracking.console import Progress, phase
from pama_exp.tracking.record import RunRecord
from pama_exp.tracking.run_wandb import log_generations
from pama_exp.training.alignment import Alignment
from pama_exp.training.evaluation import Evaluation


class Tracker(Logger):
    """Wraps a Lightning logger and drops it at its first failure, which then does not end the run."""

    def __init__(self, kind: str, logger: Logger) -> None:
        super().__init__()
        self.kind = kind
        self.logger: Logger | None = logger

    @property
    def name(self) -> str:
        """The kind of the logger, such as `csv`."""
        return self.kind

    @property
    def version(self) -> str:
        """Empty: a run has one version."""
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Do nothing: the run's record has the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one row of metrics."""
        self._try(lambda logger: logger.log_metrics(dict(metrics), step))

    def log_generations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of generations, if the logger is W&B's."""
        if isinstance(self.logger, WandbLogger):
            log_generations(self.logger.experiment, step, rows)

    def save(self) -> None:
        """Write pending data."""
        self._try(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        """Close the logger."""
        self._try(lambda logger: logger.finalize(status))

    def _try(self, call: Callable[[Logger], None]) -> None:
        logger = self.logger
        if logger is not None and not survive(self.kind, lambda: call(logger)):
            self.logger = None


class RandomStates(Callback):
    """Saves the global random states in the checkpoint, which Lightning does not do."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save: Python's, numpy's and torch's random generators."""
        state: Any = np.random.get_state()  # noqa: NPY002 - the global stream, which third-party code draws from
        kind, keys, *rest = state
        return {
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])  # noqa: NPY002
        torch.set_rng_state(state_dict["torch"])
        if state_dict["cuda"]:
            torch.cuda.set_rng_state_all(state_dict["cuda"])


class Recorder(Callback):
    """Sends every step's metrics to the run's record, to the loggers and to the console."""

    def __init__(self, record: RunRecord, progress: Progress) -> None:
        self.record, self.progress = record, progress

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Record the step's metrics."""
        module = _alignment(pl_module)
        metrics = module.metrics
        self.record.log_metrics(module.step, metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=module.step)
        shown = {name: metrics[f"reward/{name}/mean"] for name in module.names}
        self.progress.advance(shown | {"kl": metrics["kl/response"], "tokens": metrics["response/length"]})


class Evaluator(Callback):
    """Evaluates the policy on held-out prompts: before the first step, every `every` steps, and after the last step."""

    def __init__(
        self, record: RunRecord, validation: PromptStream, test: PromptStream, every: int, steps: int, seed: int
    ) -> None:
        self.record, self.validation, self.test = record, validation, test
        self.every, self.steps, self.seed = every, steps, seed
        self.before: Mapping[str, Mapping[str, float | None]] | None = None
        self.calibration: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The state to save: the SFT policy's means and deviations, which a resumed run needs."""
        return {"before": self.before, "calibration": self.calibration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.before, self.calibration = state_dict["before"], state_dict["calibration"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the SFT policy on the test prompts (`before` in the result) and on the validation prompts."""
        module = _alignment(pl_module)
        if self.before is None:
            evaluation = module.evaluate_policy(self.test, self.seed)
            self.before, self.calibration = evaluation.means(), evaluation.calibration()
            self._log(trainer, module, 0, module.evaluate_policy(self.validation, self.seed))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Evaluate on the validation prompts every `every` steps and after the last step."""
        module = _alignment(pl_module)
        due = self.every > 0 and module.step % self.every == 0
        if due or module.step == self.steps:
            self._log(trainer, module, module.step, module.evaluate_policy(self.validation, self.seed))

    def _log(self, trainer: Trainer, module: Alignment, step: int, evaluation: Evaluation) -> None:
        module.solver.on_validation(torch.stack([rewards.mean() for rewards in evaluation.proxy.values()]))
        metrics = evaluation.metrics() | {"train/step": float(step)}
        rows = evaluation.rows(limit=32)
        self.record.log_metrics(step, metrics)
        self.record.log_generations(step, rows)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
            if isinstance(logger, Tracker):
                logger.log_generations(step, rows)


class Checkpoints(Callback):
    """Saves a checkpoint every `every` steps, at the last step and at a signal; keeps the newest two."""

    def __init__(self, folder: Path, every: int, steps: int) -> None:
        self.folder, self.every, self.steps = folder, every, steps
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM and SIGINT in place of Lightning: the run stops after the current step."""
        module = _alignment(pl_module)
        if collectives.is_main():
            for step, path in checkpoints.found_in(self.folder).items():
                if step > module.step:  # skipped by the resumed run, and not newer than its own
                    checkpoints.drop(path)
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Save if a checkpoint is due; save and stop after a signal."""
        module = _alignment(pl_module)
        self.signum = collectives.highest(self.signum or 0) or None  # a signal to one process stops all at this step
        due = self.every > 0 and module.step % self.every == 0
        if due or module.step == self.steps or self.signum is not None:
            self.save(trainer, module.step)
        if self.signum is not None:
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the finished steps after an error that the user can fix, such as a reward server that failed."""
        module = _alignment(pl_module)
        if not isinstance(exception, UserError) or not module.is_between_steps:
            return
        if collectives.size() > 1 and not exception.is_shared:
            return  # one of several processes cannot save alone
        if module.step > max(checkpoints.found_in(self.folder), default=0):
            self.save(trainer, module.step)

    def save(self, trainer: Trainer, step: int) -> None:
        """Write step-<n>.ckpt through a temporary file, then delete all but the newest two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "unfinished.tmp"
        with phase("Saving a checkpoint"):
            trainer.save_checkpoint(temporary)  # every process's part; the main one writes
        if collectives.is_main():
            checkpoints.seal(temporary, self.folder, step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _on_signal(self, signum: int, _: Any) -> None:
        if self.signum is not None:  # the second signal stops at once
            raise Interrupted(signum)
        self.signum = signum


def _alignment(module: LightningModule) -> Alignment:
    """The Lightning module, typed as the alignment that it is."""
    assert isinstance(module, Alignment)
    return module
