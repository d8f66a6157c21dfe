"""Lightning's side of a run: metrics to the record, evaluations, checkpoints, random states, signals."""

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
    """One of Lightning's loggers, which is left out from the first time that it fails: it costs no run."""

    def __init__(self, kind: str, logger: Logger) -> None:
        super().__init__()
        self.kind = kind
        self.logger: Logger | None = logger

    @property
    def name(self) -> str:
        """The kind of logger."""
        return self.kind

    @property
    def version(self) -> str:
        """One run, one version."""
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The run's own record has the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row."""
        self._try(lambda logger: logger.log_metrics(dict(metrics), step))

    def log_generations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table, where the logger is W&B's."""
        if isinstance(self.logger, WandbLogger):
            log_generations(self.logger.experiment, step, rows)

    def save(self) -> None:
        """Write what is pending."""
        self._try(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        """The last call."""
        self._try(lambda logger: logger.finalize(status))

    def _try(self, call: Callable[[Logger], None]) -> None:
        logger = self.logger
        if logger is not None and not survive(self.kind, lambda: call(logger)):
            self.logger = None


class RandomStates(Callback):
    """The global random streams travel with the checkpoint, which Lightning does not see to."""

    def state_dict(self) -> dict[str, Any]:
        """Python's, numpy's and torch's generators."""
        state: Any = np.random.get_state()  # noqa: NPY002 - the global stream, which third-party code draws from
        kind, keys, *rest = state
        return {
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put them back."""
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])  # noqa: NPY002
        torch.set_rng_state(state_dict["torch"])
        if state_dict["cuda"]:
            torch.cuda.set_rng_state_all(state_dict["cuda"])


class Recorder(Callback):
    """Every step's metrics go to the run's record, to Lightning's logger and to the person watching."""

    def __init__(self, record: RunRecord, progress: Progress) -> None:
        self.record, self.progress = record, progress

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Write one row."""
        module = _alignment(pl_module)
        metrics = module.metrics
        self.record.log_metrics(module.step, metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=module.step)
        shown = {name: metrics[f"reward/{name}/mean"] for name in module.names}
        self.progress.advance(shown | {"kl": metrics["kl/response"], "tokens": metrics["response/length"]})


class Evaluator(Callback):
    """Held-out prompts before the first step, every few steps, and after the last one."""

    def __init__(
        self, record: RunRecord, validation: PromptStream, test: PromptStream, every: int, steps: int, seed: int
    ) -> None:
        self.record, self.validation, self.test = record, validation, test
        self.every, self.steps, self.seed = every, steps, seed
        self.before: Mapping[str, Mapping[str, float | None]] | None = None
        self.calibration: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The SFT policy's means and deviations, so that a resumed run need not find them again."""
        return {"before": self.before, "calibration": self.calibration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put them back."""
        self.before, self.calibration = state_dict["before"], state_dict["calibration"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The SFT policy on the test prompts (what the summary calls before) and on the validation prompts."""
        module = _alignment(pl_module)
        if self.before is None:
            evaluation = module.evaluate_policy(self.test, self.seed)
            self.before, self.calibration = evaluation.means(), evaluation.calibration()
            self._log(trainer, module, 0, module.evaluate_policy(self.validation, self.seed))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Validation on the cadence and after the last step."""
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
    """A checkpoint every few steps, at the last one and at a signal; the newest two are kept."""

    def __init__(self, folder: Path, every: int, steps: int) -> None:
        self.folder, self.every, self.steps = folder, every, steps
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGTERM and SIGINT from Lightning: a step is finished before the run stops."""
        module = _alignment(pl_module)
        if collectives.is_main():
            for step, path in checkpoints.found_in(self.folder).items():
                if step > module.step:  # passed over when the run went on: not to be taken for newer ones
                    checkpoints.drop(path)
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._remember)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Save on the cadence; save and stop after a signal."""
        module = _alignment(pl_module)
        self.signum = collectives.highest(self.signum or 0) or None  # a signal to one process stops all at this step
        due = self.every > 0 and module.step % self.every == 0
        if due or module.step == self.steps or self.signum is not None:
            self.save(trainer, module.step)
        if self.signum is not None:
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the finished steps where the user can mend what stopped the run, such as a reward server that died."""
        module = _alignment(pl_module)
        if not isinstance(exception, UserError) or not module.is_between_steps:
            return
        if collectives.size() > 1 and not exception.is_shared:
            return  # one of several processes cannot save alone
        if module.step > max(checkpoints.found_in(self.folder), default=0):
            self.save(trainer, module.step)

    def save(self, trainer: Trainer, step: int) -> None:
        """Write step-<n>.ckpt by way of a temporary file, then drop all but the newest two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "unfinished.tmp"
        with phase("Saving a checkpoint"):
            trainer.save_checkpoint(temporary)  # every process's part; the main one writes
        if not collectives.is_main():
            return
        checkpoints.seal(temporary, self.folder, step)
        for old in list(checkpoints.found_in(self.folder).values())[:-2]:
            checkpoints.drop(old)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _remember(self, signum: int, _: Any) -> None:
        if self.signum is not None:  # asked twice: stop at once
            raise Interrupted(signum)
        self.signum = signum


def _alignment(module: LightningModule) -> Alignment:
    """The module as what it is: Lightning hands it to callbacks as any module."""
    assert isinstance(module, Alignment)
    return module
