"""The default launcher: a few workers that start, watch, stop and retry the jobs of a queue."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from pama_exp.errors import UserError
from pama_exp.sweeping.jobs import Job, State
from pama_exp.sweeping.process import USER_ERROR, reason_of, start, tell

POLL_SECONDS = 0.2
# Seconds for a job to finish its step and write a checkpoint after SIGTERM; then it is killed.
GRACE_SECONDS = 120.0


class Workers:
    """Runs up to `workers` jobs at a time, each in its own process and session.

    Args:
        workers: number of jobs at a time.
        timeout_minutes: time limit of a job, which is then stopped and counts as failed; None for no limit.
        retries: how often a crashed job is started again. A user's mistake (exit status 2) and a time limit are not
            retried.

    Raises:
        UserError: for a setting out of range.
    """

    def __init__(self, workers: int = 1, timeout_minutes: float | None = None, retries: int = 0) -> None:
        if workers < 1:
            raise UserError(f"hydra.launcher.workers={workers}.", "At least one job runs at a time.")
        if retries < 0:
            raise UserError(f"hydra.launcher.retries={retries}.", "Give 0 or a positive number.")
        if timeout_minutes is not None and timeout_minutes <= 0:
            raise UserError(f"hydra.launcher.timeout_minutes={timeout_minutes}.", "Give a positive number, or null.")
        self.workers, self.retries = workers, retries
        self.timeout_seconds = None if timeout_minutes is None else 60 * timeout_minutes

    def run(self, jobs: Sequence[Job], tick: Callable[[], None]) -> int | None:
        """Run the waiting jobs until each has ended, or a signal has stopped them all.

        Args:
            jobs: of the sweep.
            tick: called several times a second.

        Returns:
            The signal's number; None if there was none.
        """
        self._queue = [job for job in jobs if job.state is State.WAITING]
        self._visible = _visible_devices() if any(job.devices for job in self._queue) else []
        self._signum: int | None = None
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        self._stop_times: dict[int, float] = {}  # {job number: when it got SIGTERM}
        self._timed_out: set[int] = set()
        signals = [
            s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN
        ]
        previous = {signum: signal.signal(signum, self._on_signal) for signum in signals}  # nohup has SIGHUP ignored
        try:
            while self._running or (self._queue and self._signum is None):
                self._start_waiting()
                self._look_after_running()
                tick()
                time.sleep(POLL_SECONDS)
        finally:
            for _, process in self._running.values():
                tell(process, signal.SIGKILL)
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        for job in self._queue:
            job.state = State.STOPPED
        tick()
        return self._signum

    def _start_waiting(self) -> None:
        for slot in range(self.workers):
            if slot in self._running or self._signum is not None:
                continue
            # A job whose run is locked by another process waits.
            job = next((job for job in self._queue if not job.record.is_locked()), None)
            if job is None:
                return
            self._queue.remove(job)
            if job.attempts == 0 and job.record.is_complete and not job.forced:
                job.state = State.FINISHED
                continue
            job.state, job.started, job.attempts = State.RUNNING, time.time(), job.attempts + 1
            job.first_step = job.record.last_step()
            self._running[slot] = job, start(job, self._environment(job, slot))

    def _environment(self, job: Job, slot: int) -> Mapping[str, str]:
        environment = dict(os.environ)
        if self.workers > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.workers)))
        if self._visible and job.devices:
            count = job.devices if job.devices > 0 else max(1, len(self._visible) // self.workers)
            devices = [self._visible[(slot * count + i) % len(self._visible)] for i in range(count)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        return environment

    def _look_after_running(self) -> None:
        now = time.time()
        for slot, (job, process) in list(self._running.items()):
            status = process.poll()
            if status is not None:
                del self._running[slot]
                tell(process, signal.SIGKILL)  # whatever the job started and left behind
                self._ended(job, status)
                continue
            late = self.timeout_seconds is not None and now - job.started > self.timeout_seconds
            if (late or self._signum is not None) and job.number not in self._stop_times:
                if late:
                    self._timed_out.add(job.number)
                self._stop_times[job.number] = now
                tell(process, signal.SIGTERM)
            elif now - self._stop_times.get(job.number, now) > GRACE_SECONDS:
                tell(process, signal.SIGKILL)

    def _ended(self, job: Job, status: int) -> None:
        duration = time.time() - job.started
        job.seconds += duration
        if status == 0 and job.record.is_complete:
            job.state, job.reason = State.FINISHED, ""
        elif job.number in self._timed_out:
            job.state, job.reason = State.FAILED, f"stopped after {duration / 60:.1f} minutes (time limit)"
        elif self._signum is not None:
            job.state = State.STOPPED
        elif status != USER_ERROR and job.attempts <= self.retries:
            job.state, job.reason = State.WAITING, reason_of(status)
            self._queue.append(job)
        else:
            job.state, job.reason = State.FAILED, reason_of(status)

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if self._signum is not None:  # a second signal: kill at once
            for _job, process in self._running.values():
                tell(process, signal.SIGKILL)
        self._signum = signum


def _visible_devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
