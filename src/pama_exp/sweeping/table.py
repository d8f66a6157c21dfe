"""The terminal output of a sweep: a live table of its jobs, then a summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pama_exp.sweeping.jobs import Job, State

_REFRESH_SECONDS = 1.0
_MAX_ROWS = 24
_STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.FAILED: "bold red",
    State.STOPPED: "yellow",
}


class Watch:
    """Shows jobs while they run: as a live table on a terminal, else as one line per change of state."""

    def __init__(self, title: str, jobs: Sequence[Job]) -> None:
        self.title, self.jobs = title, jobs
        self.console = Console()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._seen: dict[int, State] = {}
        self._next = 0.0

    def __enter__(self) -> Watch:
        finished = sum(job.state is State.FINISHED for job in self.jobs)
        before = f", {finished} of them finished before" if finished else ""
        jobs = f"{len(self.jobs)} job{'s' * (len(self.jobs) != 1)}"
        self.console.print(escape(f"{self.title}: {jobs}{before}."), highlight=False)
        self._seen = {job.number: job.state for job in self.jobs}
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
        else:
            self._print_changes()

    def refresh(self) -> None:
        """Show the jobs' current states. On a terminal, at most once a second."""
        if self._live is None:
            self._print_changes()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _REFRESH_SECONDS
            self._live.update(self._table(), refresh=True)

    def _print_changes(self) -> None:
        for job in self.jobs:
            if self._seen[job.number] is not job.state:
                self._seen[job.number] = job.state
                shown = job.ended() if job.state is State.FINISHED else job.reason
                print(f"{job.number:3d} {job.state:9s} {job.label}  {shown}".rstrip(), flush=True)  # noqa: T201

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("#", min_width=2, justify="right", no_wrap=True)
        table.add_column("job", no_wrap=True, max_width=self.console.width // 2)
        table.add_column("state", min_width=8, no_wrap=True)
        table.add_column("step", min_width=7, justify="right", no_wrap=True)
        table.add_column("left", min_width=5, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, max_width=max(20, self.console.width // 2 - 28))
        for job in _rows(self.jobs):
            step, shown = job.progress()
            table.add_row(
                str(job.number),
                escape(job.label),
                Text(str(job.state), style=_STYLES[job.state]),
                f"{step}/{job.steps}" if job.state is not State.WAITING else "",
                _duration(job.seconds_left(step)),
                escape(job.reason or shown),
            )
        return Group(table, Text(f"{self.title}: {_counts(self.jobs)}", style="dim"))


def sweep_summary(jobs: Sequence[Job], folder: Path) -> None:
    """Print how many jobs ended in which state, the last lines of failed jobs, and the sweep's folder."""
    console = Console(soft_wrap=True)
    console.print(f"{_counts(jobs)}.".capitalize(), highlight=False)
    for job in jobs:
        if job.state is State.FAILED:
            console.print(escape(f"Job {job.number} ({job.label}) failed: {job.reason}."), style="red", highlight=False)
            for text in job.last_lines(6):
                console.print(escape(f"    {text}"), highlight=False)
            console.print(escape(f"    All of it: {job.log}"), highlight=False)
    if any(job.state is not State.FINISHED for job in jobs):
        console.print("The same command runs what is missing and leaves what is finished alone.", highlight=False)
    console.print(escape(f"Sweep: {folder}"), highlight=False)


def _counts(jobs: Sequence[Job]) -> str:
    counts = Counter(job.state for job in jobs)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def _rows(jobs: Sequence[Job]) -> list[Job]:
    """At most `_MAX_ROWS` jobs in order of number: running and failed ones, then waiting ones, then finished ones."""
    rank = {State.RUNNING: 0, State.FAILED: 0, State.WAITING: 1, State.STOPPED: 1, State.FINISHED: 2}
    chosen = sorted(jobs, key=lambda job: (rank[job.state], job.number))[:_MAX_ROWS]
    return sorted(chosen, key=lambda job: job.number)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
