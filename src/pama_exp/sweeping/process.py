"""The process of a job: starting it in its own session, signalling it, and stopping it when its sweep dies."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pama_exp.sweeping.jobs import Job

USER_ERROR = 2
_PR_SET_PDEATHSIG = 1
_SWEEP = "PAMA_EXP_SWEEP"  # environment variable of jobs that holds the sweep's process id


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the job's command in a new session, with its output appended to its log."""
    with job.log.open("ab") as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, _SWEEP: str(os.getpid())},
            start_new_session=True,
        )


def tell(process: subprocess.Popen[bytes], signum: int) -> None:
    """Send a signal to all processes of the job's session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def reason_of(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status > 128 and status - 128 in set(signal.Signals):
        return f"stopped by {signal.Signals(status - 128).name}"
    return f"exit status {status}"


def stop_with_sweep() -> None:
    """Called by a job: on Linux, have the system stop it (it writes a checkpoint) if its sweep is killed.

    A job, which leads a session of its own, ends here if its sweep was killed while the job was starting.
    """
    sweep = os.environ.get(_SWEEP)
    if sys.platform != "linux" or sweep is None:
        return
    if sweep == str(os.getppid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if sweep != str(os.getppid()) and os.getsid(0) == os.getpid():
        sys.exit(128 + signal.SIGTERM)
