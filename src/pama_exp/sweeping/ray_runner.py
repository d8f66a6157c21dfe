"""The Ray launcher: Ray places and schedules the jobs; each is still its own process, with its own record."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import Any

from pama_exp.errors import UserError
from pama_exp.sweeping.jobs import Job, State
from pama_exp.sweeping.process import reason_of, start, tell

_POLL_SECONDS = 0.5


class RayRunner:
    """Runs jobs as Ray tasks, on this machine or on a cluster that shares its file system.

    Args:
        address: of a running cluster; None to start one on this machine.
        cpus: number of processors per job.
        gpus: number of accelerators per job, unless its trainer.devices asks for more.

    Raises:
        UserError: if Ray is not installed.
    """

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0) -> None:
        if find_spec("ray") is None:
            raise UserError("hydra/launcher=ray needs Ray.", "It is an extra: pip install 'pama-exp[launchers]'.")
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.workers = max(1, int((os.cpu_count() or 1) // max(cpus, 1)))

    def run(self, jobs: Sequence[Job], tick: Callable[[], None]) -> int | None:
        """Run the waiting jobs. After a signal each job is stopped, and writes a checkpoint first.

        Args:
            jobs: of the sweep.
            tick: called several times a second.

        Returns:
            The signal's number; None if there was none.
        """
        import ray

        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {signum: signal.getsignal(signum) for signum in signals}
        if not ray.is_initialized():  # which has handlers of its own, too
            local = {} if self.address is not None else {"include_dashboard": False}
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **local)
        signums: list[int] = []

        def remember(signum: int, _: FrameType | None) -> None:
            signums.append(signum)

        for signum in signals:
            signal.signal(signum, remember)
        try:
            pending = {self._submit(job): job for job in jobs if job.state is State.WAITING}
            submitted, cancelled = time.time(), False
            while pending:
                if signums and not cancelled:
                    cancelled = True
                    for task in pending:
                        ray.cancel(task)
                ready, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
                for task in ready:
                    _ended(pending.pop(task), task, stopped=cancelled)
                for job in pending.values():
                    if job.state is State.WAITING and job.log.exists() and job.log.stat().st_mtime >= submitted:
                        job.state, job.started, job.first_step = State.RUNNING, time.time(), job.record.last_step()
                tick()
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        return signums[0] if signums else None

    def _submit(self, job: Job) -> Any:
        import ray

        job.attempts += 1
        task = ray.remote(num_cpus=self.cpus, num_gpus=max(self.gpus, job.devices, 0), max_retries=0)(_run_process)
        return task.remote(job, os.getcwd(), {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)})


# Variables that jobs get from this command; everything else is from the environment of Ray's worker.
_VARIABLES = ("PAMA_EXP_", "WANDB_", "HF_", "PYTHONPATH", "OMP_NUM_THREADS", "TOKENIZERS_")


def _run_process(job: Job, folder: str, environment: dict[str, str]) -> int:
    """Run the job in Ray's worker; returns its exit status."""
    os.chdir(folder)
    process = start(job, os.environ | environment)
    try:
        return process.wait()
    except BaseException:  # cancelled
        tell(process, signal.SIGTERM)
        process.wait()
        raise
    finally:
        tell(process, signal.SIGKILL)  # whatever the job started and left behind


def _ended(job: Job, task: Any, stopped: bool) -> None:
    import ray

    try:
        status = ray.get(task)
    except ray.exceptions.RayError as error:
        job.state = State.STOPPED if stopped else State.FAILED
        job.reason = "" if stopped else str(error).splitlines()[0]
        return
    if status == 0 and job.record.is_complete:
        job.state = State.FINISHED
    else:
        job.state, job.reason = State.FAILED, reason_of(status)
