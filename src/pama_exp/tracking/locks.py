"""Locks between processes: files whose lock the system frees when the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_SHORT_WAIT = 1.0  # seconds; `is_held` of another process holds the lock for less


@contextmanager
def held(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. If another process holds it, call `on_wait`, which may raise, and then wait.

    Raises:
        OSError: if the lock's file cannot be written.
    """
    lock = FileLock(path, poll_interval=0.1)
    try:
        lock.acquire(timeout=_SHORT_WAIT)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock; False if there is no such file.

    The file is opened for reading only, so that no permission to write is needed. `filelock` cannot do this.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False
