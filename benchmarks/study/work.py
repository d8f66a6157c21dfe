"""Runs jobs in worker processes that stay alive, so that start-up and imports are paid once and not per run."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import shutil
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plan import Job

# Kept of a finished run, and the experts' policies for the soups; all policies and checkpoints would be gigabytes.
_KEPT = ("config.yaml", "environment.json", "metrics.jsonl", "result.json", "status.json", ".lock")


def work(jobs: Sequence[Job], root: Path, extra: Sequence[str], workers: int, deadline: float) -> dict[str, str]:
    """Run what is not finished, `workers` at a time; returns {job: error} of those that failed.

    No job is started after `deadline` (time.time()).
    """
    todo = [job for job in jobs if not (root / job.name / "result.json").exists()]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished before.", flush=True)
    context = multiprocessing.get_context("spawn")
    waiting: Any = context.Queue()
    done: Any = context.Queue()
    for job in todo:
        waiting.put(Job(job.name, (*job.overrides, *extra), job.block, job.seed))
    processes = [context.Process(target=_serve, args=(waiting, done, root, deadline)) for _ in range(workers)]
    for process in processes:
        process.start()
    started, failed, count = time.time(), {}, 0
    while any(process.is_alive() for process in processes) or not done.empty():
        try:
            name, seconds, processor, error = done.get(timeout=1)
        except queue.Empty:
            continue
        count += 1
        left = (time.time() - started) / count * (len(todo) - count) / 60
        spent = f"{seconds:.1f} s, {processor:.1f} s of processor"
        print(f"{count}/{len(todo)}  {name}  {spent}  {error or 'done'}  {left:.0f} min left", flush=True)
        if error:
            failed[name] = error
    unfinished = [job.name for job in todo if not (root / job.name / "result.json").exists()]
    return dict.fromkeys(unfinished, "not finished: no time left, or its worker died") | failed


def _serve(waiting: Any, done: Any, root: Path, deadline: float) -> None:
    """One worker: takes jobs until there are none, or it is too late to start another, or the study was killed."""
    threading.Thread(target=_leave_with_the_study, daemon=True).start()
    while time.time() < deadline:
        try:
            job = waiting.get(timeout=1)
        except queue.Empty:
            return
        started, processor = time.time(), time.process_time()
        error = ""
        try:
            _run(job, root)
        except Exception as problem:
            error = str(problem).splitlines()[0]
            (root / job.name).parent.mkdir(parents=True, exist_ok=True)
            (root / f"{job.name}.error").write_text(traceback.format_exc())
        done.put((job.name, time.time() - started, time.process_time() - processor, error))


def _leave_with_the_study() -> None:
    """The process that started this one is gone, however it ended: nobody waits for the rows any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(job: Job, root: Path) -> None:
    from hydra import compose, initialize_config_dir

    from pama_exp.cli import execute
    from pama_exp.config import resolvers, schema

    os.environ["OMP_NUM_THREADS"] = "1"
    resolvers.register()
    folder = root / job.name
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        composed = compose("config", [*job.overrides, f"output={folder.absolute()}"])
    log = root / f"{job.name}.log"  # beside the folder, which is the run's
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        execute.run(schema.typed(composed))
    log.unlink()
    for path in folder.iterdir():
        if path.name not in _KEPT and not (job.block == "experts" and path.name == "policy"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
