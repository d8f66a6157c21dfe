"""A setting that moves in a straight line over the steps of a run."""

from __future__ import annotations

from pama_exp.errors import UserError


class Annealed:
    """From `first` at the first step to `last` at step `over`, and `last` after it; `first` for ever if `last` is None.

    Args:
        name: of the setting, for messages.
        first: its value at the first step.
        last: at the end.
        over: steps.
        above: what both are to be above, or equal to if `inclusive`.
        inclusive: whether they may be equal to it.

    Raises:
        UserError: for a value outside its range, or fewer than one step.
    """

    def __init__(
        self, name: str, first: float, last: float | None, over: int, above: float, inclusive: bool = False
    ) -> None:
        for label, value in ((name, first), (f"{name}_end", last)):
            if value is None:
                continue
            fits = value >= above if inclusive else value > above
            if not (fits and value < float("inf")):
                raise UserError(
                    f"{label}={value}.", f"Give a finite number {'not below' if inclusive else 'above'} {above:g}."
                )
        if over < 1:
            raise UserError(f"solver.anneal_steps={over}.", "It is at least 1.")
        self.first, self.last, self.over = first, first if last is None else last, over
        self.steps = 0

    def advance(self) -> float:
        """The value at this step; the next call is the next step's."""
        share = min(self.steps / max(self.over - 1, 1), 1.0)
        self.steps += 1
        return self.first + share * (self.last - self.first)
