"""Calls in processes of their own, beside this one, which share its threads.

For work that leaves its result in the cache: what a call returns is not handed back, and a call that fails is simply
not done. `python -m pama_exp.supervised.side_by_side` is such a process.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from pama_exp.parallel.products import library, products

_LEAVE = 5.0  # seconds for a process to tidy up in, asked to end


@contextmanager
def beside(calls: Sequence[Callable[[], object]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a process for each call; within the block, this process and each of the others have as many threads.

    At the block's end those that still run are told to stop. They also stop when this process ends, however it does.

    Args:
        calls: functions or bound methods without arguments, of objects that can be pickled.

    Yields:
        The processes, in order; `wait` returns once the call has been made.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // (len(calls) + 1))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(_started(pickle.dumps((call, share, library()))) for call in calls)
        torch.set_num_threads(share)
        yield processes
    finally:
        torch.set_num_threads(threads)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_LEAVE)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()  # closes what it read from


def _started(told: bytes) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pama_exp.supervised.side_by_side"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C comes to the first process alone, which ends the others
    )
    assert process.stdin is not None
    process.stdin.write(told)
    process.stdin.flush()
    return process


def _main() -> None:
    """Make one call, and stop when the process that asked for it ends: it holds the other end of standard input."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is half made is deleted on the way out
    call, threads, name = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    torch.set_num_threads(threads)
    with products(name):
        call()


def _end_with_the_starter() -> None:
    while os.read(0, 2**16):  # without the buffer's lock, which would be held at this process's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main()
