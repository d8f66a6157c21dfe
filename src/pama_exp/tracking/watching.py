"""What a person watching sees of work that takes time: bars, and phases by name; never ten seconds without a word.

On a terminal one live line; elsewhere plain lines, which a thread prints where the work itself says nothing.
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

_PATIENCE = 8.0  # seconds without a word, after which a line says what is being done
_BRIEF = 1.0  # seconds; a phase that ends before is not named
_TICK = 0.25


@runtime_checkable
class Progress(Protocol):
    """Something that is told of each step."""

    def advance(self, values: Mapping[str, float]) -> None:
        """One more step is done; `values` are worth seeing."""
        ...


@dataclass
class Phase:
    """A named part of the work, and how much of it is done where that is counted."""

    name: str
    total: int | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
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

    def doing(self, phase: Phase | None) -> None:
        self.bar.update(self.task, doing="" if phase is None else escape(str(phase)))


class _Plain:
    """A line every tenth of the way, and wherever nothing has been said for a while, where there is no terminal."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self._told = time.monotonic()  # of a step's values; that work goes on is said besides
        self._first: tuple[int, float] | None = None  # when the first step was done, which is slower than the others

    def advance(self, values: Mapping[str, float]) -> None:
        self.done += 1
        now = time.monotonic()
        if self._first is None:
            self._first = (self.done, now)
        is_tenth = self.done == self.total or self.done * 10 // self.total > (self.done - 1) * 10 // self.total
        if is_tenth or now - self._told >= _PATIENCE:
            self._told = now
            _say(f"{self.title}: {self.done}/{self.total}  {_show(values)}{self._left(now)}")

    def _left(self, now: float) -> str:
        """The time that the steps to come will take, once two are done."""
        if self._first is None or self.done == self._first[0]:
            return ""
        step, since = self._first
        seconds = (now - since) / (self.done - step) * (self.total - self.done)
        return f"  {_duration(seconds)} left" if seconds >= _BRIEF else ""

    def __str__(self) -> str:
        return f"{self.title}: {self.done}/{self.total} done{self._left(time.monotonic())}"


class _Watch:
    """What is being done now, innermost last, and a thread that sees to it that somebody says so."""

    def __init__(self) -> None:
        self.said = time.monotonic()
        self.phases: list[Phase] = []
        self.bars: list[_Live | _Plain] = []
        self.named: set[str] = set()
        self._end: threading.Event | None = None
        self._status: Any = None
        self._depth = 0

    def enter(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self.said, self.named, self._end = time.monotonic(), set(), threading.Event()
        threading.Thread(target=self._tell, args=(self._end,), daemon=True).start()

    def leave(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._end is not None:
            self._end.set()
        self.show_status(Console())

    def show_status(self, console: Console) -> None:
        """A line with a spinner on a terminal, where no bar has the place."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if console.is_terminal and self.phases and not self.bars:
            self._status = console.status(escape(str(self.phases[-1])))
            self._status.start()

    def _tell(self, end: threading.Event) -> None:
        while not end.wait(_TICK):
            phase = self.phases[-1] if self.phases else None
            bar = self.bars[-1] if self.bars else None
            if isinstance(bar, _Live):
                bar.doing(phase)
            elif (status := self._status) is not None and phase is not None:
                status.update(escape(str(phase)))
            elif not Console().is_terminal and (phase is not None or bar is not None):
                self._tell_plainly(phase, bar)

    def _tell_plainly(self, phase: Phase | None, bar: _Plain | None) -> None:
        now = time.monotonic()
        is_new = phase is not None and phase.name not in self.named and now - phase.started >= _BRIEF
        if is_new or now - self.said >= _PATIENCE:
            if phase is not None:
                self.named.add(phase.name)
            _say("; ".join(str(each) for each in (bar, phase) if each is not None))


_watch = _Watch()


@contextmanager
def phase(name: str, total: int | None = None) -> Iterator[Phase]:
    """Name what is being done for as long as the block lasts: with a spinner on a terminal, or beside its bar.

    Off a terminal a line names it once it has lasted a second, and again where nothing else has been said for eight.

    Args:
        name: in the words of the person watching, such as "Loading the model".
        total: how many there are to do, counted by `Phase.advance`.
    """
    this = Phase(name, total)
    _watch.phases.append(this)
    _watch.enter()
    _watch.show_status(Console())
    try:
        yield this
    finally:
        _watch.phases.remove(this)
        _watch.leave()


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """A live line with bar, steps, elapsed time, time left and a few values; plain lines off a terminal."""
    console = Console()
    if not console.is_terminal:
        with _shown(_Plain(title, total, done)) as plain:
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
    with _shown(_Live(bar, task)) as live, bar:
        yield live


@contextmanager
def _shown(bar: _Live | _Plain) -> Iterator[Progress]:
    _watch.bars.append(bar)
    _watch.enter()
    _watch.show_status(Console())  # which gives way to the bar
    try:
        yield bar
    finally:
        _watch.bars.remove(bar)
        _watch.leave()


def _say(line: str) -> None:
    _watch.said = time.monotonic()
    print(line, flush=True)  # noqa: T201


def _show(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


def _duration(seconds: float) -> str:
    """As a person says it: 12 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
