"""What supervised training leaves in a run's folder so that it can go on: a row for each step, and checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pama_exp.errors import Interrupted
from pama_exp.tracking import checkpoints
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord


class Journal:
    """Rows and checkpoints of one training; a signal ends it after the step, with a checkpoint.

    Args:
        record: the run's.
        every: steps between checkpoints; 0: none but after the last step and a signal.
        counts: what `counts` begins with.

    Attributes:
        row: what the coming step's row of metrics holds besides its loss; whoever computes the loss fills it.
        counts: what is counted over all steps, such as passes and seconds; it goes on with the training.
    """

    def __init__(self, record: RunRecord, every: int, counts: Mapping[str, float]) -> None:
        self.record, self.every = record, every
        self.row: dict[str, float] = {}
        self.counts = dict(counts)
        self._signum: int | None = None
        self._since = time.perf_counter()
        self.resumed, passed_over = checkpoints.newest(record.checkpoints)
        self.begun = 0 if self.resumed is None else self.resumed.step
        record.truncate(self.begun, self.resumed.tables if self.resumed is not None else None)
        record.write_status("running", self.begun)
        why = f" ({'; '.join(passed_over)})" if passed_over else ""
        if self.resumed is not None:
            note(f"Resuming from step {self.begun}{why}.")
        elif passed_over:
            note(f"Starting from the beginning{why}.")

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> list[float]:
        """Put everything back that the newest checkpoint holds; returns the losses of the steps that are done."""
        if self.resumed is None:
            return []
        with checkpoints.readable():
            state = torch.load(self.resumed.path, map_location="cpu", weights_only=True)["fit"]
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
        """SIGTERM and SIGINT are remembered meanwhile: the step is finished first. A second one stops at once."""
        self._since = time.perf_counter()
        previous = {signum: signal.signal(signum, self._remember) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def keep(
        self, losses: list[float], is_last: bool, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any
    ) -> None:
        """Write the row of a step that is done; and a checkpoint on the cadence, after the last step and a signal.

        Raises:
            Interrupted: after a signal.
        """
        step, now = len(losses), time.perf_counter()
        taken, self._since = now - self._since, now
        self.counts["seconds"] = self.counts.get("seconds", 0.0) + taken
        row = {"train/step": step, "train/loss": losses[-1], "time/step": taken} | self.row
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
        for old in list(checkpoints.found_in(folder).values())[:-2]:
            checkpoints.drop(old)

    def _remember(self, signum: int, _: Any) -> None:
        if self._signum is not None:
            raise Interrupted(signum)
        self._signum = signum


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
