"""What a person watching a sweep reads off the table."""

import io
import time

import pytest
from rich.console import Console

from pama_exp.sweeping import table
from pama_exp.sweeping.jobs import Job, State
from pama_exp.tracking.record import RunRecord


@pytest.fixture
def sweep(tmp_path):
    def job(number, state, **settings):
        folder = tmp_path / str(number)
        log = tmp_path / f"{number}.log"
        return Job(number, f"seed={number}", [], [], folder, log, steps=60, state=state, **settings)

    jobs = [
        job(0, State.FINISHED),
        job(1, State.RUNNING, started=time.time() - 100, first_step=10),
        job(2, State.RUNNING),
        job(3, State.FAILED, reason="exit status 1"),
        job(4, State.WAITING),
    ]
    means = {"before": None, "after": {"gold": 0.75, "proxy": 3.0}}
    RunRecord.open(jobs[0].folder).write_result(
        {"objectives": {"helpful": means}, "true_hypervolume_share": {"after": 0.5}}
    )
    record = RunRecord.open(jobs[1].folder)
    record.log_metrics(20, {"eval/gold/helpful/mean": 0.5, "eval/proxy/helpful/mean": 2.0})
    record.log_metrics(30, {"reward/helpful/mean": 1.0})
    jobs[2].log.write_text("$ python -m pama_exp\nSFT policy: 30/300  loss 2.1\n")
    return jobs


@pytest.mark.parametrize("width", [80, 120])
def test_state_step_objectives_and_time_left_of_every_job(sweep, width):
    shown = io.StringIO()
    watch = table.Watch("Sweep", sweep)
    watch.console = Console(file=shown, width=width)
    watch.console.print(watch._table())
    rows = {line.split()[0]: line.rstrip() for line in shown.getvalue().splitlines()}
    for number, words in {
        "0": ["seed=0", "finished", "60/60", "helpful 0.750"],
        "1": ["seed=1", "running", "30/60", "2:30", "helpful 0.500"],  # 20 steps took 100 s, 30 are left
        "2": ["seed=2", "running", "0/60", "SFT policy: 30/300"],
        "3": ["seed=3", "failed", "exit status 1"],
        "4": ["seed=4", "waiting"],
    }.items():
        for word in words:
            assert word in rows[number], rows[number]
    assert "1 waiting, 2 running, 1 finished, 1 failed" in shown.getvalue()


def test_of_many_jobs_those_that_run_or_failed_are_shown(sweep, tmp_path):
    done = [Job(n, f"job{n}", [], [], tmp_path / "0", tmp_path / "x", 60, state=State.FINISHED) for n in range(10, 200)]
    shown = io.StringIO()
    watch = table.Watch("Sweep", [*done, *sweep])
    watch.console = Console(file=shown, width=120)
    watch.console.print(watch._table())
    assert all(f"seed={number} " in shown.getvalue() for number in (1, 2, 3, 4))
    assert len(shown.getvalue().splitlines()) < 30
