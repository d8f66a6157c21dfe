"""Progress of long work: bars and named phases. At least one line is printed every ten seconds.

On a terminal it is one live line. Elsewhere it is plain lines; a thread prints them when the work prints none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PATIENCE = 8.0  # seconds without a line, after which the thread prints one
_BRIEF = 1.0  # seconds; shorter phases are not printed
_TICK = 0.25  # seconds between the thread's checks


@runtime_checkable
class Progress(Protocol):
    """Shows the progress of steps."""

    def advance(self, values: Mapping[str, float]) -> None:
        """Count one more finished step, and show the values."""
        ...


@dataclass
class Phase:
    """A named part of the work. If `total` is a number, `done` counts how much of it is finished."""

    name: str
    total: int | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1) -> None:
        """Count more as finished."""
        self.done += count

    def __str__(self) -> str:
        counted = "" if self.total is None else f" {self.done}/{self.total}"
        seconds = time.monotonic() - self.started
        return f"{self.name}{counted}" + (f", {_duration(seconds)}" if seconds >= _BRIEF else "")


class _Live:
    """A bar on a terminal."""

    def __init__(self, bar: RichProgress, task: Any) -> None:
        self.bar, self.task = bar, task

    def advance(self, values: Mapping[str, float]) -> None:
        self.bar.update(self.task, advance=1, values=_show(values))

    def show_phase(self, phase: Phase | None) -> None:
        self.bar.update(self.task, doing="" if phase is None else escape(str(phase)))


class _Plain:
    """Plain lines: one every tenth of the steps, and one whenever none has been printed for a while."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self._printed = time.monotonic()  # when the values of a step were last printed
        self._first: tuple[int, float] | None = None  # (step, time) of the first step, which is slower than the others

    def advance(self, values: Mapping[str, float]) -> None:
        self.done += 1
        now = time.monotonic()
        if self._first is None:
            self._first = (self.done, now)
        is_tenth = self.done == self.total or self.done * 10 // self.total > (self.done - 1) * 10 // self.total
        if is_tenth or now - self._printed >= _PATIENCE:
            self._printed = now
            _print(f"{self.title}: {self.done}/{self.total}  {_show(values)}{self._left(now)}")

    def _left(self, now: float) -> str:
        """The time that the remaining steps will take; empty before the second step is finished."""
        if self._first is None or self.done == self._first[0]:
            return ""
        step, since = self._first
        seconds = (now - since) / (self.done - step) * (self.total - self.done)
        return f"  {_duration(seconds)} left" if seconds >= _BRIEF else ""

    def __str__(self) -> str:
        return f"{self.title}: {self.done}/{self.total} done{self._left(time.monotonic())}"


class _Watch:
    """The current phases and bars, innermost last, and the thread that prints them."""

    def __init__(self) -> None:
        self.printed = time.monotonic()  # when the last line was printed
        self.phases: list[Phase] = []
        self.bars: list[_Live | _Plain] = []
        self.named: set[str] = set()
        self._end = threading.Event()
        self._status: Any = None
        self._depth = 0

    @contextmanager
    def showing(self, shown: list[Any], item: Any) -> Iterator[None]:
        """Add a phase or a bar to its list for the block. The outermost block starts and ends the thread."""
        shown.append(item)
        self._depth += 1
        if self._depth == 1:
            self.printed, self.named, self._end = time.monotonic(), set(), threading.Event()
            threading.Thread(target=self._print_lines, args=(self._end,), daemon=True).start()
        self._show_status(Console())
        try:
            yield
        finally:
            shown.remove(item)
            self._depth -= 1
            if self._depth == 0:
                self._end.set()
            self._show_status(Console())

    def _show_status(self, console: Console) -> None:
        """Show the current phase with a spinner, on a terminal without a bar."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if console.is_terminal and self.phases and not self.bars:
            self._status = console.status(escape(str(self.phases[-1])))
            self._status.start()

    def _print_lines(self, end: threading.Event) -> None:
        while not end.wait(_TICK):
            phase = self.phases[-1] if self.phases else None
            bar = self.bars[-1] if self.bars else None
            if isinstance(bar, _Live):
                bar.show_phase(phase)
            elif (status := self._status) is not None and phase is not None:
                status.update(escape(str(phase)))
            elif not Console().is_terminal and (phase is not None or bar is not None):
                self._print_if_due(phase, bar)

    def _print_if_due(self, phase: Phase | None, bar: _Plain | None) -> None:
        now = time.monotonic()
        is_new = phase is not None and phase.name not in self.named and now - phase.started >= _BRIEF
        if is_new or now - self.printed >= _PATIENCE:
            if phase is not None:
                self.named.add(phase.name)
            _print("; ".join(str(part) for part in (bar, phase) if part is not None))


_watch = _Watch()


@contextmanager
def phase(name: str, total: int | None = None) -> Iterator[Phase]:
    """Show the name of the work that the block does: with a spinner on a terminal, or beside the bar.

    Without a terminal a line is printed after one second, and again whenever eight seconds pass without a line.

    Args:
        name: such as "Loading the model".
        total: the number that `Phase.advance` counts to.
    """
    current = Phase(name, total)
    with _watch.showing(_watch.phases, current):
        yield current


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a live line with bar, steps, elapsed time, time left and a few values; without a terminal plain lines."""
    console = Console()
    if not console.is_terminal:
        plain = _Plain(title, total, done)
        with _watch.showing(_watch.bars, plain):
            yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[cyan]{task.fields[values]}"),
        TextColumn("{task.fields[doing]}"),
    )
    bar = RichProgress(*columns, console=console)
    task = bar.add_task(escape(title), total=total, completed=done, values="", doing="")
    live = _Live(bar, task)
    with _watch.showing(_watch.bars, live), bar:
        yield live


def _print(line: str) -> None:
    _watch.printed = time.monotonic()
    print(line, flush=True)  # noqa: T201


def _show(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


def _duration(seconds: float) -> str:
    """Such as 12 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
