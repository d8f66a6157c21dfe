"""Several processes end as one would: with one message, one checkpoint, and nobody left waiting."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import FAST, command, composed, environment, run_config, run_here
from pama_exp.errors import UserError
from pama_exp.tracking.record import RunRecord

pytestmark = pytest.mark.slow("each run is three processes")

SHARED = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "reward=gold"]
LONG = ["training.steps=8", "training.kl.target=0.5", "objectives.concise.normaliser=running"]

ONE_FAILS = """
import time
from pama_exp.parallel import collectives
from pama_exp.tracking import checkpoints

calls = 0
seal = checkpoints.seal

def slowly(*arguments):
    time.sleep(1.0)  # the other process has long said that it failed
    seal(*arguments)

checkpoints.seal = slowly

def score(prompts, completions, **columns):
    global calls
    calls += 1
    return [float("nan") if collectives.rank() == 1 and calls > 6 else 1.0 for _ in completions]
"""


def start(folder, cache, *overrides):
    arguments = command(*FAST, *SHARED, f"output={folder / 'run'}", f"cache_dir={cache}", *overrides)
    return subprocess.Popen(
        arguments, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(folder, step, process):
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if metrics.exists() and f'"step": {step}' in metrics.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise TimeoutError(step)


def test_a_signal_stops_all_at_one_step_and_the_same_command_goes_on(tmp_path, shared_cache, capfd):
    process = start(tmp_path, shared_cache, *LONG)
    wait_for_step(tmp_path, 2, process)
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=100)
    assert process.returncode == 143, said + complained
    assert "Traceback" not in complained
    assert said.count("Stopped by SIGTERM") == 1
    record = RunRecord.open(tmp_path / "run")
    state = record.read_status()
    assert state["state"] == "interrupted"
    assert sorted(record.checkpoints.glob("step-*.ckpt"))[-1].name == f"step-{state['step']:08d}.ckpt"

    record = run_here(*SHARED, *LONG, output=tmp_path / "run", cache=shared_cache)
    assert record.is_complete
    assert capfd.readouterr().out.count(f"Resuming from step {state['step']} of 8.") == 1
    steps = [row["step"] for row in record.read_metrics() if "kl/response" in row]
    assert steps == list(range(1, 9))  # the main process alone writes, and nothing twice


def test_a_mistake_in_one_process_ends_all_with_its_two_lines(tmp_path, shared_cache, capfd, monkeypatch):
    (tmp_path / "one_fails.py").write_text(ONE_FAILS)
    monkeypatch.syspath_prepend(tmp_path)
    kept = ["training.steps=50", "training.checkpoint_every=0"]
    config = composed(*FAST, *SHARED, *kept, f"output={tmp_path / 'run'}", f"cache_dir={shared_cache}")
    config.objectives.concise.scorers = {"factworld": {"function": "one_fails:score"}}
    with pytest.raises(UserError, match="'concise' returned nan"):
        run_config(config)
    assert capfd.readouterr().err == ""  # nothing but the two lines that the command makes of the error
    record = RunRecord.open(tmp_path / "run")
    assert record.read_status()["state"] == "failed"
    assert [path.name for path in record.checkpoints.glob("*.ckpt")] == [f"step-{record.last_step():08d}.ckpt"]


def test_a_signal_to_one_worker_interrupts_the_run_and_the_same_command_goes_on(tmp_path, shared_cache):
    process = start(tmp_path, shared_cache, *LONG)
    wait_for_step(tmp_path, 2, process)
    (children,) = Path(f"/proc/{process.pid}/task").glob(f"{process.pid}/children")
    os.kill(int(children.read_text().split()[-1]), signal.SIGTERM)
    said, complained = process.communicate(timeout=100)
    assert process.returncode == 143, said + complained
    assert "Traceback" not in complained
    record = RunRecord.open(tmp_path / "run")
    state = record.read_status()
    assert state["state"] == "interrupted"
    assert sorted(record.checkpoints.glob("step-*.ckpt"))[-1].name == f"step-{state['step']:08d}.ckpt"
    assert run_here(*SHARED, *LONG, output=tmp_path / "run", cache=shared_cache).is_complete
