"""The record of supervised training: a row of metrics for each step, and checkpoints to resume from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pama_exp.errors import Interrupted, on_signals
from pama_exp.tracking import checkpoints
from pama_exp.tracking.record import RunRecord


class Journal:
    """Writes the metrics and checkpoints of one training. A signal ends it after the current step, with a checkpoint.

    Args:
        record: of the run.
        steps: the number of training steps.
        every: steps between checkpoints. 0: only after the last step and after a signal.
        counts: initial values of the attribute `counts`.

    Attributes:
        first_step: the step that training resumes from; 0 without a checkpoint.
        row: metrics of the current step besides its loss, which the computation of the loss adds.
        counts: totals over all steps, such as passes and seconds. A checkpoint holds them.
    """

    def __init__(self, record: RunRecord, steps: int, every: int, counts: Mapping[str, float]) -> None:
        self.record, self.every = record, every
        self.row: dict[str, float] = {}
        self.counts = dict(counts)
        self._signum: int | None = None
        self._since = time.perf_counter()
        self._checkpoint = record.resume(steps)
        self.first_step = 0 if self._checkpoint is None else self._checkpoint.step

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> list[float]:
        """Restore the state from the newest checkpoint, if there is one; returns the losses of the finished steps."""
        if self._checkpoint is None:
            return []
        with checkpoints.readable():
            state = torch.load(self._checkpoint.path, map_location="cpu", weights_only=True)["fit"]
        with torch.no_grad():
            for name, parameter in _trained(model).items():
                parameter.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        self.counts = dict(state["counts"])
        return list(state["losses"])

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within the block, the first SIGTERM or SIGINT stops after the current step, and the second at once."""
        self._since = time.perf_counter()
        with on_signals(self._remember):
            yield

    def log_step(
        self, losses: list[float], is_last: bool, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any
    ) -> None:
        """Write the row of a finished step, and a checkpoint if one is due.

        Raises:
            Interrupted: after a signal.
        """
        step, now = len(losses), time.perf_counter()
        seconds, self._since = now - self._since, now
        self.counts["seconds"] = self.counts.get("seconds", 0.0) + seconds
        row = {"train/step": step, "train/loss": losses[-1], "time/step": seconds} | self.row
        self.record.log_metrics(step, row)
        self.row.clear()
        if is_last or self._signum is not None or (self.every > 0 and step % self.every == 0):
            self._save(losses, model, optimizer, scheduler)
        if self._signum is not None:
            self.record.write_status("interrupted", step, f"signal {self._signum}")
            raise Interrupted(self._signum)

    def _save(self, losses: list[float], model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        folder, step = self.record.checkpoints, len(losses)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "step": step,
            "weights": {name: parameter.detach().cpu() for name, parameter in _trained(model).items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "counts": self.counts,
            "losses": losses,
        }
        temporary = folder / "unfinished.tmp"
        torch.save({"fit": content}, temporary)
        checkpoints.seal(temporary, folder, step)

    def _remember(self, signum: int, _: Any) -> None:
        if self._signum is not None:
            raise Interrupted(signum)
        self._signum = signum


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
