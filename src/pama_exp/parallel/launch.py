"""One run in several processes of this machine: started, watched and ended together.

The process that the user started takes no part in the work. It starts the workers, waits for what each has to say at
its end, and raises that as its own: to its caller, a run in several processes is a function call as is a run in one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

import torch
from torch import distributed as dist

from pama_exp.errors import Interrupted, UserError, WorkerCrashed
from pama_exp.safety import failing

_WORKER = "PAMA_EXP_WORKER"  # what a worker is told of itself, as JSON
_PATIENCE = timedelta(days=1)  # with a process that is at work; of one that has died, the starter knows
_GRACE = 60.0  # seconds that the others have to end in once the first has
_LEAVE = 5.0  # seconds to leave at once in, asked to a second time


@dataclass
class _Process:
    rank: int
    handle: subprocess.Popen[bytes]
    reader: int  # the end of the pipe it reports on
    heard: bytes = field(default=b"")

    @property
    def report(self) -> dict[str, Any] | None:
        """What it had to say at its end; None where it has not (yet) said so."""
        return json.loads(self.heard) if self.heard.endswith(b"\n") else None


def run_in_processes(config: Mapping[str, Any], count: int, uses_gpus: bool) -> dict[str, Any]:
    """Run the configuration's stage in `count` processes; returns the main one's result.

    Args:
        config: plain nested values, all there are.
        count: of processes.
        uses_gpus: one GPU for each; otherwise they share the processor's threads.

    Raises:
        UserError: the first that a worker raises, or if a worker is killed.
        Interrupted: after a signal, which is handed on to the workers: they finish a step and write a checkpoint; or
            after one that a worker was sent by another.
        WorkerCrashed: if a worker raises anything else.
    """
    with tempfile.TemporaryDirectory(prefix="pama-exp-") as folder:
        processes = [_start(rank, count, config, Path(folder), uses_gpus) for rank in range(count)]
        try:
            reports = _wait(processes)
        finally:
            for process in processes:
                process.handle.kill()
                process.handle.communicate()  # waits, and closes what the worker read from
                os.close(process.reader)
    result: dict[str, Any] = reports[0]["result"]
    return result


def work(run: Callable[[dict[str, Any], Path | None], Any]) -> None:
    """A worker's whole life: join the others, call `run`, and tell how it ended.

    `run` takes the configuration, and a scratch folder to write to in every process but the main one.
    """
    told = json.loads(os.environ[_WORKER])
    rank, count = told["rank"], told["count"]
    threading.Thread(target=_leave_with_the_starter, daemon=True).start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    folder = Path(told["folder"])
    try:
        _join(rank, count, folder, told["uses_gpus"])
        scratch = None if rank == 0 else folder / f"scratch-{rank}"
        report = {"end": "done", "result": run(json.loads((folder / "config.json").read_text()), scratch)}
    except UserError as error:
        report = {"end": "mistake", "message": error.message, "hint": error.hint, "shared": error.is_shared}
    except Interrupted as error:
        report = {"end": "interrupted", "signum": error.signum}
    except Exception as error:
        output = Path(str(json.loads((folder / "config.json").read_text())["output"])).absolute()
        known = failing.unwritable(error, output)
        line = "" if known is not None else failing.last_line(error, f"Process {rank}", output)
        report = {"end": "crashed", "line": line}
        if known is not None:
            report = {"end": "mistake", "message": known.message, "hint": known.hint}
    except BaseException:
        traceback.print_exc()
        report = {"end": "crashed", "line": f"Process {rank} was ended."}
    if rank > 0:
        report.pop("result", None)
    sys.stdout.flush()
    with os.fdopen(told["writer"], "w") as pipe:
        pipe.write(json.dumps(report) + "\n")
        pipe.flush()
        if report["end"] != "done":
            # Leaving would break the others' connections, and each would print what it makes of that.
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)  # the starter knows all there is to know
            threading.Event().wait()


def _start(rank: int, count: int, config: Mapping[str, Any], folder: Path, uses_gpus: bool) -> _Process:
    (folder / "config.json").write_text(json.dumps(config))
    reader, writer = os.pipe()
    told = {"rank": rank, "count": count, "folder": str(folder), "uses_gpus": uses_gpus, "writer": writer}
    # Lightning reads its local rank from the environment, and then starts no processes itself.
    environment = {**os.environ, _WORKER: json.dumps(told), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    handle = subprocess.Popen(
        [sys.executable, "-m", "pama_exp"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        pass_fds=[writer],
        start_new_session=True,  # a terminal's Ctrl-C comes to the starter alone, which hands it on
    )
    os.close(writer)
    return _Process(rank, handle, reader)


def _wait(processes: Sequence[_Process]) -> list[dict[str, Any]]:
    """Every process's report, in order of rank.

    Raises as soon as one process fails alone. Where all of them met with the same mistake, each may first finish what
    it does because of it: the main one writes a checkpoint.
    """
    asked: int | None = None
    deadline = float("inf")
    with DefaultSelector() as selector:
        for process in processes:
            selector.register(process.reader, EVENT_READ, process)
        while selector.get_map():
            try:
                ready = selector.select(None if deadline == float("inf") else max(0.0, deadline - time.monotonic()))
                if not ready:  # one has ended, and another does not
                    break
                for key, _ in ready:
                    chunk = os.read(key.fd, 2**16)
                    key.data.heard += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                    if not (key.data.report or {}).get("shared", False):
                        _raise_if_wrong(key.data, at_its_end=not chunk)
                if all(process.report for process in processes):
                    break  # those that have something else to tell than a result wait to be ended
                if any(process.report for process in processes):
                    deadline = min(deadline, time.monotonic() + _GRACE)
            except Interrupted as interruption:
                if asked is not None:
                    deadline = min(deadline, time.monotonic() + _LEAVE)
                asked = interruption.signum
                for process in processes:
                    process.handle.send_signal(asked)
    for process in processes:
        if process.report is not None:
            _raise_if_wrong(process, at_its_end=False)
    reports = [process.report or {} for process in processes]
    if all(report.get("end") == "done" for report in reports):
        return reports
    # Somebody else may have told one of them to stop, and it the others.
    told = [report["signum"] for report in reports if report.get("end") == "interrupted"]
    raise Interrupted(asked if asked is not None else told[0] if told else signal.SIGTERM)


def _raise_if_wrong(process: _Process, at_its_end: bool) -> None:
    report = process.report
    if report is None:
        if at_its_end:
            status = process.handle.wait()
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise UserError(
                f"Process {process.rank} of the run ended with {how}.",
                "Was there memory enough? The same command goes on from the last checkpoint.",
            )
    elif report["end"] == "mistake":
        raise UserError(report["message"], report["hint"])
    elif report["end"] == "crashed":
        raise WorkerCrashed(report["line"])


def _join(rank: int, count: int, folder: Path, uses_gpus: bool) -> None:
    """Become one of the group. The processes meet at a file, so that no port is needed."""
    if uses_gpus:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if uses_gpus else "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
    )


def _leave_with_the_starter() -> None:
    """The starter holds the other end of standard input; it closes however the starter ends."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(signum: int, _: Any) -> None:
    raise Interrupted(signum)
