"""One job of a sweep: what it is, and how far its record says it has come."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord


class State(StrEnum):
    """Where a job stands."""

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
        label: the settings that tell it from the others.
        overrides: its settings as on a command line.
        command: the command that runs it alone.
        folder: its run folder.
        log: the file that holds what it printed.
        steps: optimisation steps when it is finished.
        devices: accelerator devices that it asks for; 0 on processors, -1 for all there are.
        forced: whether it runs although it has a result.
        state: where it stands.
        reason: why it failed.
        attempts: processes started for it by this sweep.
        started: when the present process started, in seconds since the epoch.
        seconds: time taken by this sweep's processes.
        first_step: the step from which the present process went on.
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
        """Its run's record."""
        return RunRecord(self.folder)

    def result(self) -> dict[str, Any] | None:
        """Its result, where it has one that can be read."""
        try:
            return self.record.read_result() if self.record.is_complete else None
        except UserError:
            return None

    def last_lines(self, count: int) -> list[str]:
        """The end of what it printed, without empty lines."""
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-count:]

    def progress(self) -> tuple[int, str]:
        """Steps done, and what there is to see: mean rewards on validation prompts, else its last line of output."""
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
        lines = [line for line in self.last_lines(1) if not line.startswith("$ ")]  # the command itself is no news
        return step, lines[0].strip() if lines and self.state is State.RUNNING else ""

    def ended(self) -> str:
        """The result of a finished job as a line shows it, or what is wrong with its record."""
        try:
            return shown_result(self.record.read_result())
        except UserError as error:
            return error.message

    def seconds_left(self, step: int) -> float | None:
        """What the present pace means for the steps that are left; None before the first of them."""
        done = step - self.first_step
        if self.state is not State.RUNNING or done < 1:
            return None
        return (time.time() - self.started) / done * (self.steps - step)

    def describe(self) -> dict[str, Any]:
        """As sweep.json keeps it."""
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
    """{objective: mean reward on test prompts after training}, gold where it is defined, else the proxy's."""
    means = {name: values["after"] or {} for name, values in (result.get("objectives") or {}).items()}
    return {n: m["gold"] if m.get("gold") is not None else m.get("proxy") for n, m in means.items()}


def shown_result(result: Mapping[str, Any] | None) -> str:
    """`helpful 0.540  concise 0.720  front 45.3%`."""
    if result is None:
        return ""
    share = (result.get("true_hypervolume_share") or {}).get("after")
    return _numbers(final_means(result)) + (f"  front {share:.1%}" if share is not None else "")


def labels(lines: Sequence[Sequence[str]]) -> list[str]:
    """For each job's settings, those that not all jobs share."""
    if len(lines) == 1:
        return ["the only one"]
    shared = set(lines[0]).intersection(*lines[1:])
    return [" ".join(override for override in line if override not in shared) for line in lines]


def write_sweep(path: Path, command: Sequence[str], jobs: Sequence[Job]) -> None:
    """sweep.json, atomically: what the sweep is, and where each of its jobs stands."""
    try:
        known = {entry["number"]: entry for entry in reading.read_json(path, reading.check_sweep)["jobs"]}
    except UserError:  # there is none yet, or a damaged one, which is written anew
        known = {}
    merged = known | {job.number: job.describe() for job in jobs}
    content = {"name": path.parent.name, "command": list(command), "jobs": [merged[n] for n in sorted(merged)]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def _evaluated(row: Mapping[str, Any]) -> dict[str, float | None]:
    for kind in ("gold", "proxy"):
        prefix = f"eval/{kind}/"
        found = {
            key.removeprefix(prefix).removesuffix("/mean"): value
            for key, value in row.items()
            if key.startswith(prefix) and key.endswith("/mean")
        }
        if found:
            return found
    return {}


def _numbers(values: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in values.items())
