"""How a command ends in an error: two lines for a user's mistake or a full disk, one line for a bug.

The line of a bug says where the traceback is.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from pama_exp.errors import UserError

DEBUG = "PAMA_EXP_DEBUG"  # an environment variable: 1 prints the traceback
TRACEBACK = "traceback.txt"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
# Messages of safetensors, torch and tempfile, which raise other errors than OSError.
_MESSAGES = re.compile(
    r"StorageFull|No space left on device|[Dd]isk quota exceeded|Input/output error|PytorchStreamWriter failed"
    r"|inline_container\.cc.* unexpected pos \d+ vs \d+|iostream error|No usable temporary directory"
)
_LONGEST = 160  # characters of an error's message in the line


def prepare_streams() -> None:
    """Let standard output and errors show the code of a character that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unwritable(error: BaseException, folder: Path | None) -> UserError | None:
    """The error of two lines for a full or failing disk, anywhere in the chain of causes; None for other errors.

    Args:
        error: what was raised.
        folder: of the run. Its free space is named if the error names no file.
    """
    for cause in _chain(error):
        is_disk = isinstance(cause, OSError) and cause.errno in _UNWRITABLE
        if not is_disk and (isinstance(cause, UserError) or not _MESSAGES.search(str(cause))):
            continue
        file, reason = None, "No space left on device"
        if is_disk and isinstance(cause, OSError):
            file = cause.filename if isinstance(cause.filename, str) else None
            reason = os.strerror(cause.errno or 0)
        what = file or f"A file of {folder or os.curdir}"
        free = shutil.disk_usage(_existing(Path(file) if file is not None else folder or Path())).free / 2**30
        return UserError(
            f"{what} cannot be written: {reason} ({free:.2f} GiB free there).",
            "Make room, and give the same command: it goes on from the last step that was kept.",
        )
    return None


def last_line(error: BaseException, stage: str, folder: Path | None) -> str:
    """Write the traceback to a file; returns a line that names the error, the stage and the file.

    Args:
        error: with its traceback.
        stage: what failed.
        folder: of the run. The file is written there if it holds a run, else in the folder for temporary files.
    """
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG) == "1":
        sys.stderr.write(text)
    lines = str(error).splitlines()
    message = f"{type(error).__name__}: {lines[0][:_LONGEST]}" if lines else type(error).__name__
    path = _write_traceback(text, folder)
    where = f"The traceback is in {path}" if path is not None else "The traceback cannot be written"
    return f"{stage} failed unexpectedly: {message}. {where}; {DEBUG}=1 shows it."


def guarded(command: Callable[[], int | None], name: str) -> NoReturn:
    """Run a command and exit with its status; with that of `leave` if it raises, 128 + the number of a signal.

    Args:
        command: returns the exit status; None is 0.
        name: the command as the line of a bug names it.
    """
    prepare_streams()
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as error:
        leave(error, name, None)
    sys.exit(status or 0)


def leave(error: Exception, stage: str, folder: Path | None) -> NoReturn:
    """Print the error and exit: status 2 for a user's mistake or a full disk, 1 for a bug. Arguments as `last_line`."""
    known = error if isinstance(error, UserError) else unwritable(error, folder)
    sys.stderr.write(f"{known}\n" if known is not None else last_line(error, stage, folder) + "\n")
    sys.exit(2 if known is not None else 1)


def _write_traceback(text: str, folder: Path | None) -> Path | None:
    """The file written: in the run's folder, else a temporary one of mode 0600; None if neither can be written."""
    if folder is not None and (folder / "status.json").is_file() and (folder / "config.yaml").is_file():
        try:
            (folder / TRACEBACK).unlink(missing_ok=True)  # it may be a link
            (folder / TRACEBACK).write_text(text, encoding="utf-8", errors="backslashreplace")
            return folder / TRACEBACK
        except OSError:
            pass
    try:
        descriptor, name = tempfile.mkstemp(prefix="pama-exp-", suffix=f"-{TRACEBACK}")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return Path(name)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _existing(path: Path) -> Path:
    """The path if it is a folder, else the nearest parent that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())
