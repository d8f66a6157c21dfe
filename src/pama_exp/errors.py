"""What ends a run: a mistake that is the user's to mend, or a signal. Anything else is a bug, with its traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

from pama_exp.secrets import HINT, redact


class UserError(Exception):
    """A mistake in the input: printed as two lines (what is wrong and where, what would be right), exit status 2.

    Neither line holds a secret, whatever values they quote.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = redact(message)
        self.hint = redact(hint)
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}"


class Interrupted(BaseException):
    """A signal asked the run to stop; `signum` becomes the exit status 128 + signum."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class WorkerCrashed(Exception):
    """One of several processes of a run met with a bug, whose traceback it has kept; the error's text says where."""


def refuse_secrets(found: Iterable[str]) -> None:
    """Nothing is found, of what `secrets_in` and its like look for.

    Raises:
        UserError: for the first secret in plain, shown without it.
    """
    for setting in found:
        raise UserError(f"A password, key or token in plain: {setting[:200]}.", HINT)


def suggest(word: str, choices: Iterable[str]) -> str:
    """The nearest valid name, if one is near, and all the valid ones."""
    valid = list(choices)
    near = difflib.get_close_matches(word, valid, n=1)
    listed = f"Valid: {', '.join(valid) or 'none'}."
    return f"Did you mean '{near[0]}'? {listed}" if near else listed
