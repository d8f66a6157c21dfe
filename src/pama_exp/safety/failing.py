"""The last line of defence: what nobody foresaw ends in a line that says where its traceback is, a full disk in two."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from pama_exp.errors import UserError

DEBUG = "PAMA_EXP_DEBUG"  # set to 1, the traceback is shown
TRACEBACK = "traceback.txt"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
# What safetensors, torch and tempfile say of the same; they raise errors of their own.
_SAID = re.compile(
    r"StorageFull|No space left on device|[Dd]isk quota exceeded|Input/output error|PytorchStreamWriter failed"
    r"|inline_container\.cc.* unexpected pos \d+ vs \d+|No usable temporary directory"
)
_LONGEST = 160  # characters of an error's own words


def prepare_streams() -> None:
    """A terminal that cannot show a character is shown its code instead."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unwritable(error: BaseException, folder: Path | None) -> UserError | None:
    """A full or failing disk in two lines, wherever in the chain of errors it stands; None of any other error.

    Args:
        error: whatever was raised.
        folder: the run's, of which the free space is told where the error names no file.
    """
    for one in _chain(error):
        is_disk = isinstance(one, OSError) and one.errno in _UNWRITABLE
        if not is_disk and (isinstance(one, UserError) or not _SAID.search(str(one))):
            continue
        named = one.filename if is_disk and isinstance(one, OSError) and isinstance(one.filename, str) else None
        what = named or f"A file of {folder or os.curdir}"
        reason = os.strerror(one.errno or 0) if is_disk and isinstance(one, OSError) else "No space left on device"
        where = _existing(Path(named) if named is not None else folder or Path())
        free = shutil.disk_usage(where).free / 2**30
        return UserError(
            f"{what} cannot be written: {reason} ({free:.2f} GiB free there).",
            "Make room, and give the same command: it goes on from the last step that was kept.",
        )
    return None


def last_line(error: BaseException, stage: str, folder: Path | None) -> str:
    """Keep the traceback, and say in a line what happened, in which stage, and where it is.

    Args:
        error: with its traceback.
        stage: what was going on.
        folder: the run's; the traceback is kept there if it holds a run, else in a temporary file of the user's alone.
    """
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG) == "1":
        sys.stderr.write(text)
    words = str(error).splitlines()
    said = f"{type(error).__name__}: {words[0][:_LONGEST]}" if words else type(error).__name__
    kept = _keep(text, folder)
    where = f"The traceback is in {kept}" if kept is not None else "The traceback cannot be written"
    return f"{stage} failed unexpectedly: {said}. {where}; {DEBUG}=1 shows it."


def guarded(command: Callable[[], int], name: str) -> NoReturn:
    """Run a command that reads runs, and leave with its status.

    That is 2 for the user's mistakes and a full disk, 1 if it fails unexpectedly.
    """
    prepare_streams()
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        status = 2
    except Exception as error:
        leave(error, name, None)
    sys.exit(status)


def leave(error: Exception, stage: str, folder: Path | None) -> NoReturn:
    """Tell of an error that is no refusal, and leave: status 2 if the disk is full, else 1."""
    known = unwritable(error, folder)
    if known is not None:
        sys.stderr.write(f"{known.message}\n{known.hint}\n")
        sys.exit(2)
    sys.stderr.write(last_line(error, stage, folder) + "\n")
    sys.exit(1)


def _keep(text: str, folder: Path | None) -> Path | None:
    """Written in the run's folder, else in a temporary file of mode 0600; None where neither can be."""
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
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())
