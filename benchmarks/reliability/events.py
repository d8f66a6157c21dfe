"""Changes to chosen folders, counted as Python makes them, and a kill at the n-th.

It knows nothing of the package and imports nothing but what comes with Python: `hook/sitecustomize.py` installs it in
the processes that a run starts, before anything else is imported there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

VARIABLE = "RELIABILITY_EVENTS"
STARTER = "starter"  # the process that the user starts; the others are known by their rank, "0", "1", …
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR
_SOON = 2e-4  # seconds after the event: within what the event began


def install(folders: list[str], log: str | None = None, at: int | None = None, is_soon: bool = False) -> None:
    """From now on, count the openings for writing, renamings, removals and makings below the folders.

    Args:
        folders: absolute; other changes are nobody's business.
        log: a file that every event is written to; None to write none.
        at: the number of the event, from 1 on, that the process is killed at; None never.
        is_soon: a moment after the event has begun, rather than just before it.
    """
    roots = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log is not None else None
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITING:
                return
        elif event not in _CHANGES:
            return
        path = _path(event, arguments)
        if path is None or not (path + os.sep).startswith(roots):
            return
        count += 1
        if descriptor is not None:
            os.write(descriptor, f"{event} {path}\n".encode(errors="replace"))
        if count == at:
            if not is_soon:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, _SOON)  # whose signal ends a process that has no handler for it

    sys.addaudithook(hook)


def install_as_told() -> None:
    """In a process that a run has started: what the variable says of a process of this rank."""
    told = json.loads(os.environ.get(VARIABLE, "null"))
    if told is None or str(json.loads(os.environ.get("PAMA_EXP_WORKER", "{}")).get("rank")) != told.pop("process"):
        return
    install(**told)


def _path(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The changed path, absolute, whether named by itself or within an open folder."""
    try:
        path = os.fspath(arguments[0])
    except TypeError:  # an open file
        return None
    path = os.fsdecode(path)
    within = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.chmod": 2}.get(event)
    if within is not None and isinstance(arguments[within], int) and arguments[within] >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[within]}"), path)
    return os.path.abspath(path)
