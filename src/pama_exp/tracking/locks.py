"""Locks between processes: files that the system frees however their holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_GLANCE = 1.0  # seconds in which somebody who only looks whether the lock is held has let go of it


@contextmanager
def held(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. If another process has it, call `on_wait`, which may raise, and wait for it.

    Raises:
        OSError: if the lock's file cannot be written.
    """
    lock = FileLock(path, poll_interval=0.1)
    try:
        lock.acquire(timeout=_GLANCE)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock; False where there is no such file.

    The file is opened for reading alone: whoever reads somebody else's runs need not be able to write there.
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
