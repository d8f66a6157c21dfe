"""Workers run real processes: none takes another down, none outlives its sweep, and each ends as its record says."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pama_exp.errors import UserError
from pama_exp.sweeping.jobs import Job, State
from pama_exp.sweeping.pool import Workers
from pama_exp.tracking.record import RunRecord
from sweeping.toy import alive

FINISH = "import pathlib; (folder / 'result.json').write_text('{}')"


@pytest.fixture
def make(tmp_path):
    """Make a job that runs a script of Python; `folder` is its run folder."""

    def job(number, script, **settings):
        folder = tmp_path / f"run{number}"
        folder.mkdir(exist_ok=True)
        head = f"import os, sys, time, signal, pathlib; folder = pathlib.Path({str(folder)!r})\n"
        return Job(
            number=number,
            label=f"job {number}",
            overrides=[],
            command=[sys.executable, "-S", "-c", head + textwrap.dedent(script)],
            folder=folder,
            log=tmp_path / f"{number}.log",
            steps=1,
            **settings,
        )

    return job


def run(jobs, **settings):
    return Workers(**settings).run(jobs, lambda: None)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_crashes_and_one_that_is_killed_leave_the_others_alone(make):
    jobs = [
        make(0, FINISH),
        make(1, "raise ValueError('here is why')"),
        make(2, "os.kill(os.getpid(), 9)"),
        make(3, FINISH),
    ]
    assert run(jobs, workers=2) is None
    assert [job.state for job in jobs] == [State.FINISHED, State.FAILED, State.FAILED, State.FINISHED]
    assert jobs[1].reason == "exit status 1"
    assert "ValueError: here is why" in jobs[1].last_lines(1)
    assert jobs[2].reason == "killed by SIGKILL"


def test_success_without_a_result_is_a_failure(make):
    jobs = [make(0, "pass")]
    run(jobs)
    assert jobs[0].state is State.FAILED


def test_a_crash_is_retried_as_often_as_asked_and_a_mistake_never(make):
    third_time = f"""
        count = folder / "count"
        count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
        if count.read_text() != "3": sys.exit(7)
        {FINISH}
    """
    jobs = [make(0, third_time), make(1, "sys.exit(2)")]
    run(jobs, retries=1)
    assert [(job.state, job.attempts) for job in jobs] == [(State.FAILED, 2), (State.FAILED, 1)]
    jobs = [make(0, third_time)]
    run(jobs, retries=1)
    assert [(job.state, job.attempts) for job in jobs] == [(State.FINISHED, 1)]


def test_the_time_limit_stops_a_job_politely_and_is_not_retried(make):
    jobs = [
        make(
            0, "signal.signal(15, lambda *_: sys.exit((folder / 'told').touch() or 143))\nwhile True: time.sleep(0.01)"
        )
    ]
    run(jobs, timeout_minutes=0.02, retries=3)
    assert jobs[0].state is State.FAILED
    assert jobs[0].attempts == 1
    assert "time limit" in jobs[0].reason
    assert (jobs[0].folder / "told").exists()


@pytest.fixture
def heeded(signum):
    """The signal does what it does in the foreground: a shell's background jobs are born with SIGINT ignored."""
    previous = signal.signal(signum, signal.SIG_DFL)
    yield
    signal.signal(signum, previous)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_is_named(make, signum):
    polite = "signal.signal(15, lambda *_: sys.exit(143)); (folder / 'up').touch()\nwhile True: time.sleep(0.01)"
    jobs = [make(0, FINISH), make(1, polite), make(2, FINISH)]

    def press():
        wait_until((jobs[1].folder / "up").exists)
        os.kill(os.getpid(), signum)

    presser = threading.Thread(target=press)
    presser.start()
    assert run(jobs, workers=1) == signum
    presser.join()
    assert [job.state for job in jobs] == [State.FINISHED, State.STOPPED, State.STOPPED]


def test_processes_that_a_job_leaves_behind_are_ended_with_it(make):
    spawn = f"""
        import subprocess
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (folder / "child").write_text(str(child.pid))
        {FINISH}
    """
    jobs = [make(0, spawn)]
    run(jobs)
    assert jobs[0].state is State.FINISHED
    wait_until(lambda: not alive(int((jobs[0].folder / "child").read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells jobs of their sweep's death on Linux")
def test_a_sweep_that_is_killed_takes_its_jobs_along(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import pathlib, sys, time
        from pama_exp.sweeping.process import stop_with_sweep
        here = pathlib.Path(__file__).parent
        if sys.argv[1:] == ["job"]:
            import os
            stop_with_sweep()
            (here / "pid.tmp").write_text(str(os.getpid()))
            (here / "pid.tmp").rename(here / "pid")
            time.sleep(600)
        from pama_exp.sweeping.jobs import Job
        from pama_exp.sweeping.pool import Workers
        job = Job(0, "", [], [sys.executable, __file__, "job"], here / "run", here / "log", 1)
        Workers().run([job], lambda: None)
        """)
    )
    sweep = subprocess.Popen([sys.executable, str(program)])
    wait_until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    sweep.kill()
    sweep.wait()
    wait_until(lambda: not alive(pid))


def test_a_run_that_another_process_works_on_is_waited_for(make):
    jobs = [make(0, FINISH), make(1, FINISH)]
    seen = []
    with RunRecord.open(jobs[0].folder).lock():
        holder = threading.Event()

        def tick():
            seen.append([job.state for job in jobs])
            if jobs[1].state is State.FINISHED:
                holder.set()
                raise KeyboardInterrupt  # enough has been seen

        with pytest.raises(KeyboardInterrupt):
            Workers(workers=2).run(jobs, tick)
    assert holder.is_set()
    assert all(states[0] is State.WAITING for states in seen)


def test_finished_jobs_are_left_alone(make):
    jobs = [make(0, "raise SystemExit(1)", state=State.FINISHED), make(1, FINISH)]
    run(jobs)
    assert [(job.state, job.attempts) for job in jobs] == [(State.FINISHED, 0), (State.FINISHED, 1)]


@pytest.mark.parametrize("asked", [2, -1])
def test_each_worker_has_its_own_devices(asked, make, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    show = f"(folder / 'devices').write_text(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5); {FINISH}"
    jobs = [make(0, show, devices=asked), make(1, show, devices=asked)]
    run(jobs, workers=2)
    assert sorted((job.folder / "devices").read_text() for job in jobs) == ["3,5", "6,7"]


@pytest.mark.parametrize("setting", [{"workers": 0}, {"retries": -1}, {"timeout_minutes": 0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=f"hydra.launcher.{next(iter(setting))}"):
        Workers(**setting)
