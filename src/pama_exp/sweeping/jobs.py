"""One job of a sweep: its settings, its state, and its progress as its run's record tells it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError
from pama_exp.storage.files import replace_text
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord


class State(StrEnum):
    """The states of a job. FAILED includes a time limit; STOPPED means that a signal stopped the sweep."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Job:
    """One run of a sweep.

    Attributes:
        number: its place in the sweep, from 0.
        label: the settings in which it differs from other jobs.
        overrides: its settings, as on a command line.
        command: the command that runs it alone.
        folder: the run's folder.
        log: the file with its output.
        steps: the number of optimisation steps of a finished run.
        devices: the number of accelerators it needs; 0 for none, -1 for all that are visible.
        forced: whether it runs although it has a result.
        state: see `State`.
        reason: why it failed; empty otherwise.
        attempts: the number of processes that this sweep started for it.
        started: start of the current process, in seconds since the epoch.
        seconds: duration of all its processes of this sweep.
        first_step: the step at which the current process resumed.
    """

    number: int
    label: str
    overrides: Sequence[str]
    command: Sequence[str]
    folder: Path
    log: Path
    steps: int
    devices: int = 0
    forced: bool = False
    state: State = State.WAITING
    reason: str = ""
    attempts: int = 0
    started: float = 0.0
    seconds: float = 0.0
    first_step: int = 0

    @property
    def record(self) -> RunRecord:
        """The record of its run."""
        return RunRecord(self.folder)

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None if there is none, or it cannot be read."""
        try:
            return self.record.read_result() if self.record.is_complete else None
        except UserError:
            return None

    def last_lines(self, count: int) -> list[str]:
        """The last `count` lines of its output, without empty lines."""
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-count:]

    def progress(self) -> tuple[int, str]:
        """The number of steps done, and a text: the newest validation rewards, or else the last line of output."""
        if self.state is State.FINISHED:
            return self.steps, self.ended()
        try:
            rows = self.record.read_metrics()
        except UserError as error:
            return 0, error.message
        step = max((int(row["step"]) for row in rows), default=0)
        evaluations = [means for row in rows if (means := _evaluated(row))]
        if step > 0 and evaluations:
            return step, _numbers(evaluations[-1])
        lines = [line for line in self.last_lines(1) if not line.startswith("$ ")]  # not the command itself
        return step, lines[0].strip() if lines and self.state is State.RUNNING else ""

    def ended(self) -> str:
        """The result of a finished job in one line, or what is wrong with its record."""
        try:
            return shown_result(self.record.read_result())
        except UserError as error:
            return error.message

    def seconds_left(self, step: int) -> float | None:
        """The estimated seconds until the job is finished, from its pace; None before its first step."""
        done = step - self.first_step
        if self.state is not State.RUNNING or done < 1:
            return None
        return (time.time() - self.started) / done * (self.steps - step)

    def describe(self) -> dict[str, Any]:
        """The job as an entry of sweep.json: plain values."""
        return {
            "number": self.number,
            "label": self.label,
            "overrides": list(self.overrides),
            "command": list(self.command),
            "folder": str(self.folder),
            "log": str(self.log),
            "state": str(self.state),
            "reason": self.reason,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 1),
        }


def final_means(result: Mapping[str, Any]) -> dict[str, float | None]:
    """{objective: mean reward on test prompts after training}: gold if known, else proxy; None if neither is."""
    means = {name: values["after"] or {} for name, values in (result.get("objectives") or {}).items()}
    return {n: m["gold"] if m.get("gold") is not None else m.get("proxy") for n, m in means.items()}


def shown_result(result: Mapping[str, Any] | None) -> str:
    """The result in one line, such as `helpful 0.540  concise 0.720  front 45.3%`; empty for None."""
    if result is None:
        return ""
    share = (result.get("true_hypervolume_share") or {}).get("after")
    return _numbers(final_means(result)) + (f"  front {share:.1%}" if share is not None else "")


def labels(lines: Sequence[Sequence[str]]) -> list[str]:
    """A label for each job: those of its overrides that not all jobs have."""
    if len(lines) == 1:
        return ["the only one"]
    shared = set(lines[0]).intersection(*lines[1:])
    return [" ".join(override for override in line if override not in shared) for line in lines]


def write_sweep(path: Path, command: Sequence[str], jobs: Sequence[Job]) -> None:
    """Write sweep.json atomically: the sweep's command, and each job with its state.

    Jobs of the file that are not among `jobs` stay in it.
    """
    try:
        known = {entry["number"]: entry for entry in reading.read_json(path, reading.check_sweep)["jobs"]}
    except UserError:  # it is missing, or damaged and written again
        known = {}
    merged = known | {job.number: job.describe() for job in jobs}
    content = {"name": path.parent.name, "command": list(command), "jobs": [merged[n] for n in sorted(merged)]}
    replace_text(path, json.dumps(content, indent=1) + "\n")


def _evaluated(row: Mapping[str, Any]) -> dict[str, float | None]:
    for kind in ("gold", "proxy"):
        prefix = f"eval/{kind}/"
        means = {
            key.removeprefix(prefix).removesuffix("/mean"): value
            for key, value in row.items()
            if key.startswith(prefix) and key.endswith("/mean")
        }
        if means:
            return means
    return {}


def _numbers(values: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in values.items())
