"""A setting that changes linearly over the steps of a run."""

from __future__ import annotations


class Annealed:
    """A value that moves linearly from `first` at the first step to `last` at step `steps_to_last`, and then stays.

    Args:
        first: the value at the first step.
        last: the value from step `steps_to_last` on; None: always `first`.
        steps_to_last: number of steps, at least 1.
    """

    def __init__(self, first: float, last: float | None, steps_to_last: int) -> None:
        self.first, self.last, self.steps_to_last = first, first if last is None else last, steps_to_last
        self.steps = 0

    def advance(self) -> float:
        """The value at the current step; moves on to the next step."""
        share = min(self.steps / max(self.steps_to_last - 1, 1), 1.0)
        self.steps += 1
        return self.first + share * (self.last - self.first)
