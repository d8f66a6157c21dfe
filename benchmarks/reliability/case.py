"""One case of a campaign and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .forks import Ended


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        name: of the case, by which it is known when a campaign goes on.
        part: kills, events, damage, disk or commands.
        scenario: what was disturbed.
        how: in words.
        kind: how it went, such as "resumed" or "refused", for counting.
        faults: what should not have been; empty where all was well.
        seconds: of the whole case.
    """

    name: str
    part: str
    scenario: str
    how: str
    kind: str
    faults: tuple[str, ...] = ()
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """A case to come: `run` does it."""

    name: str
    part: str
    scenario: str
    run: Callable[[], Verdict]


def faults_of(ended: Ended, when: str) -> list[str]:
    """What no command may do, whatever happens to it: hang, or show a traceback."""
    found = [f"{when}: hung"] if ended.is_hung else []
    if ended.has_traceback:
        found.append(f"{when}: traceback: {ended.err[-300:]}")
    return found
