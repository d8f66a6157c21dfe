"""What ends a run: a mistake that is the user's to mend, or a signal. Anything else is a bug, with its traceback."""

from __future__ import annotations

import difflib
import re
import signal
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from pama_exp.safety.secrets import HINT, redact

_OURS = Path(__file__).parent
_STANDARD = Path(sysconfig.get_path("stdlib"))
_LISTED = 200  # characters of the names that a hint lists
_LONG = re.compile(r"\S{220,}")  # no word of an error is longer


class UserError(Exception):
    """A mistake in the input: printed as two lines (what is wrong and where, what would be right), exit status 2.

    Neither line holds a secret, whatever values they quote.

    Attributes:
        is_shared: whether every process of the run raises it, at the same point.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = _LONG.sub(_shortened, redact(message))
        self.hint = _LONG.sub(_shortened, redact(hint))
        self.is_shared = False
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}"


def _shortened(match: re.Match[str]) -> str:
    """The word's beginning and end: whoever typed it knows the rest."""
    return f"{match[0][:120]}…{match[0][-40:]}"


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


@contextmanager
def located(where: str) -> Iterator[None]:
    """Have the message of a mistake that comes to light in the block begin with `where`."""
    try:
        yield
    except UserError as error:
        error.message = f"{where}: {error.message}"
        error.args = (error.message, error.hint)
        raise


@contextmanager
def users_code(what: str, hint: str) -> Iterator[None]:
    """Make whatever the user's own code raises in the block, `sys.exit` included, a mistake that names its line.

    Raises:
        UserError: `what` raised so and so, in this line of that file.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} raised {described(error)}.", hint) from None


def described(error: BaseException) -> str:
    """The exception's type and first line, and where there is one the user's file and line."""
    first = next(iter(str(error).splitlines()), "")[:120]
    name = type(error).__name__
    return f"{name}: {first}{_place(error)}" if first else f"{name}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line that is neither ours nor Python's; one of an installed package where there is no other."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({error.filename}:{error.lineno})"
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    installed = {"site-packages", "dist-packages"}
    theirs = [
        (path, line)
        for path, line in places
        if path.is_file()
        and not path.is_relative_to(_OURS)
        and (installed & set(path.parts) or not path.is_relative_to(_STANDARD))
    ]
    own = [(path, line) for path, line in theirs if not installed & set(path.parts)]
    return next((f" ({path}:{line})" for path, line in reversed(own or theirs)), "")


def suggest(word: str, choices: Iterable[str]) -> str:
    """The nearest valid name, if one is near, and the valid ones, as many as a line holds."""
    valid = list(choices)
    near = difflib.get_close_matches(word, valid, n=1)
    lengths = accumulate(len(name) + 2 for name in valid)
    shown = valid[: sum(length <= _LISTED for length in lengths)]
    more = f" and {len(valid) - len(shown)} more" if len(shown) < len(valid) else ""
    listed = f"Valid: {', '.join(shown) or 'none'}{more}."
    return f"Did you mean '{near[0]}'? {listed}" if near else listed
