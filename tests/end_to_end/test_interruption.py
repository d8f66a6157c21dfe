"""A crash loses nothing: killed or asked to stop after any step, the same command ends where it would have ended."""

import json
import signal
import subprocess

import pytest

from commands import FAST, command, environment, learning, run_here, wait_for_step
from pama_exp.tracking.record import RunRecord

# The policy must differ from step to step and the solver must hold state that a resume could lose.
LONG = [
    "training.steps=8",
    "training.checkpoint_every=3",
    "training.kl.target=0.5",
    "objectives.helpful.normaliser=running",
]

MORE = pytest.mark.slow("another of the same processes that are killed and started again")


def start(output, cache, *overrides):
    arguments = command(*FAST, *LONG, f"output={output}", f"cache_dir={cache}", *overrides)
    return subprocess.Popen(
        arguments, cwd=output.parent, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, shared_cache):
    return run_here(*LONG, "trainer.threads=1", output=tmp_path_factory.mktemp("whole") / "run", cache=shared_cache)


@pytest.mark.parametrize("step", [pytest.param(1, marks=MORE), 4, pytest.param(7, marks=MORE)])
def test_killed_and_run_again_is_bit_equal(step, tmp_path, shared_cache, uninterrupted):
    output = tmp_path / "run"
    process = start(output, shared_cache, "trainer.threads=1")
    wait_for_step(output, step, process)
    process.kill()
    process.communicate()
    assert not (output / "result.json").exists()
    record = run_here(*LONG, "trainer.threads=1", output=output, cache=shared_cache)
    assert learning(record.read_metrics()) == learning(uninterrupted.read_metrics())
    assert record.read_generations() == uninterrupted.read_generations()
    assert record.read_result()["objectives"] == uninterrupted.read_result()["objectives"]


@pytest.mark.slow("processes that are started, stopped and started again")
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_checkpoints_and_says_so(signum, status, tmp_path, shared_cache, uninterrupted):
    output = tmp_path / "run"
    process = start(output, shared_cache, "trainer.threads=1")
    wait_for_step(output, 2, process)
    process.send_signal(signum)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == status, said
    assert "Traceback" not in said
    record = RunRecord.open(output)
    state = record.read_status()
    assert state["state"] == "interrupted"
    assert sorted(record.checkpoints.glob("step-*.ckpt"))[-1].name == f"step-{state['step']:08d}.ckpt"
    resumed = run_here(*LONG, "trainer.threads=1", output=output, cache=shared_cache)
    assert learning(resumed.read_metrics()) == learning(uninterrupted.read_metrics())


@pytest.mark.slow("processes that are started, stopped and started again")
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, shared_cache, capfd):
    output = tmp_path / "run"
    process = start(output, shared_cache, "training.checkpoint_every=1")
    wait_for_step(output, 4, process)
    process.kill()
    process.communicate()
    older, newest = sorted((output / "checkpoints").glob("step-*.ckpt"))[-2:]
    newest.write_bytes(newest.read_bytes()[:1000])
    record = run_here(*LONG, "training.checkpoint_every=1", output=output, cache=shared_cache)
    assert f"Resuming from step {int(older.stem[5:])} of 8 ({newest.name} is damaged)." in capfd.readouterr().out
    assert record.is_complete
    assert json.loads((output / "status.json").read_text())["state"] == "complete"
