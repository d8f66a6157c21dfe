"""The exceptions that end a run: a user's mistake, a signal, or a crashed worker; and helpers for their messages."""

from __future__ import annotations

import difflib
import re
import signal
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from pama_exp.safety.secrets import HINT, redact

_PACKAGE = Path(__file__).parent
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_MAX_LISTED = 200  # characters of the names that a hint lists
_MAX_LINE = 300  # characters of a line of an error


class UserError(Exception):
    """A mistake in the input. It is printed as two lines, and the exit status is 2.

    Secrets are removed from both lines.

    Attributes:
        message: what is wrong and where.
        hint: what would be right.
        is_shared: whether every process of the run raises this error at the same point.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = (_fitting(redact(line)) for line in (message, hint))
        self.is_shared = False
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}"


def _fitting(line: str) -> str:
    """At most 300 characters: of long words, such as paths, the beginning and the end; if need be, not all of the line.

    Whoever typed the words knows the rest.
    """
    for longest, head, tail in ((220, 120, 40), (120, 80, 30), (80, 40, 20)):
        if longest == 220 or len(line) > _MAX_LINE:
            line = re.sub(rf"(\S{{{head}}})\S{{{longest - head - tail},}}(\S{{{tail}}})", r"\1…\2", line)
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE - 1]}…"


class Interrupted(BaseException):
    """A signal stopped the run. The exit status is 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call the handler for SIGTERM and SIGINT within the block."""
    previous = {signum: signal.signal(signum, handler) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)


class WorkerCrashed(Exception):
    """A worker process of the run ended with a bug. The error's text says where its traceback is."""


def refuse_secrets(settings: Iterable[str]) -> None:
    """Raise an error if there is any setting that holds a secret.

    Args:
        settings: those that hold one, as `secrets_in` returns them, with the secret removed.

    Raises:
        UserError: for the first of them.
    """
    for setting in settings:
        raise UserError(f"A password, key or token in plain: {setting[:200]}.", HINT)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` before the message of any `UserError` raised in the block."""
    try:
        yield
    except UserError as error:
        error.message = _fitting(f"{where}: {error.message}")
        error.args = (error.message, error.hint)
        raise


@contextmanager
def users_code(what: str, hint: str) -> Iterator[None]:
    """Turn any exception of the user's own code in the block, `sys.exit` included, into a `UserError`.

    Args:
        what: names the code in the message.
        hint: the error's second line.

    Raises:
        UserError: with the exception, and the file and line that raised it.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} raised {described(error)}.", hint) from None


def described(error: BaseException) -> str:
    """The exception's type, its first line, and the file and line of the user's code if it has passed through any."""
    first = next(iter(str(error).splitlines()), "")[:120]
    name = type(error).__name__
    return f"{name}: {first}{_place(error)}" if first else f"{name}{_place(error)}"


def _place(error: BaseException) -> str:
    """The innermost line of user code in the traceback; of an installed package if there is no user code."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({error.filename}:{error.lineno})"
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    installed = {"site-packages", "dist-packages"}
    outside = [
        (path, line)
        for path, line in places
        if path.is_file()
        and not path.is_relative_to(_PACKAGE)
        and (installed & set(path.parts) or not path.is_relative_to(_STANDARD_LIBRARY))
    ]
    user_code = [(path, line) for path, line in outside if not installed & set(path.parts)]
    return next((f" ({path}:{line})" for path, line in reversed(user_code or outside)), "")


def suggest(word: str, choices: Iterable[str]) -> str:
    """A hint that names the valid choice nearest to `word`, if any is near, and lists the choices that fit one line."""
    valid = list(choices)
    near = difflib.get_close_matches(word, valid, n=1)
    lengths = accumulate(len(name) + 2 for name in valid)
    shown = valid[: sum(length <= _MAX_LISTED for length in lengths)]
    more = f" and {len(valid) - len(shown)} more" if len(shown) < len(valid) else ""
    listed = f"Valid: {', '.join(shown) or 'none'}{more}."
    return f"Did you mean '{near[0]}'? {listed}" if near else listed
