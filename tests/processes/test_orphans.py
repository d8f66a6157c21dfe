"""Whoever starts processes takes them along, however it ends: nobody is left to pay for work that no one waits for."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from commands import FAST, ROOT, command, environment
from sweeping.toy import alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def descendants(pid):
    """Of a process, at any depth."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [deeper for child in found for deeper in descendants(child)]


def wait_until(holds, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def of_a_study(folder, cache):
    program = folder / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from benchmarks.study.plan import Job
        from benchmarks.study.work import work
        if __name__ == "__main__":
            words = {[*FAST, "reward=gold", "training.steps=100000", f"cache_dir={cache}"]!r}
            jobs = [Job(f"2-gold/{{n}}", (*words, f"seed={{n}}"), "2-gold", n) for n in range(2)]
            work(jobs, Path({str(folder / "runs")!r}), [], 2, time.time() + 600)
        """)
    )
    return [sys.executable, str(program)], 2


def of_a_run_in_two_processes(folder, cache):
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "reward=gold", "training.steps=100000"]
    return command(*FAST, *words, f"output={folder / 'runs'}", f"cache_dir={cache}"), 2


def of_a_sweep(folder, cache):
    words = ["--multirun", *FAST, "reward=gold", "training.steps=100000", "seed=0,1", "hydra.launcher.workers=2"]
    return command(*words, f"cache_dir={cache}"), 2


@pytest.mark.slow("processes that are started and killed")
@pytest.mark.parametrize("start", [of_a_study, of_a_run_in_two_processes, of_a_sweep])
def test_children_go_with_their_parent_that_is_killed(start, tmp_path, shared_cache):
    words, count = start(tmp_path, shared_cache)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen(words, cwd=tmp_path, env=environment(PYTHONPATH=path), **quiet)
    try:
        wait_until(
            lambda: len(list(tmp_path.rglob("metrics.jsonl"))) >= (1 if start is of_a_run_in_two_processes else 2)
        )
        children = descendants(parent.pid)
        assert len(children) >= count
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(alive, children)), seconds=60)


def test_a_job_whose_sweep_was_killed_while_it_started_does_no_work(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    words = command(*FAST, "reward=gold", "output=run", f"cache_dir={tmp_path / 'cache'}")
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(PAMA_EXP_SWEEP=str(gone.pid)), start_new_session=True, check=False
    )
    assert done.returncode == 143
    assert not (tmp_path / "run").exists()
