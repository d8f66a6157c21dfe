"""What a run does to the folder it is given: nothing of others is lost, and nobody is shown another run's numbers."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import command, composed, environment, run_config
from pama_exp.config import naming
from pama_exp.errors import UserError
from pama_exp.tracking.folder import is_run
from pama_exp.tracking.record import RunRecord
from sweeping.toy import TOY, prepare, sweep_here
from tracking.test_folder import contents, thesis

# As the toy stage, but it ends as a file says, after it has written rows.
STAGE = """
import os, signal
from pathlib import Path
from pama_exp.errors import Interrupted, UserError

def run(setup, record):
    config = setup.config
    end = Path("end").read_text()
    record.log_metrics(0, {"x": float(config.seed)})
    record.log_generations(0, [{"split": "test", "response": str(config.seed)}])
    if end == "checkpoint":
        record.checkpoints.mkdir()
        (record.checkpoints / "step-00000001.ckpt").write_text("")
    if end in ("kill", "checkpoint"):
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "mistake":
        raise UserError("A bad setting.", "Found late.")
    if end == "bug":
        raise RuntimeError("a bug")
    if end == "signal":
        raise Interrupted(signal.SIGTERM)
    (record.folder / "policy").mkdir()
    (record.folder / "policy" / "weights").write_text(str(config.seed))
    return {"status": "complete", "seed": config.seed}
"""
LATE = [*TOY[2:], "stage.name=late", "stage._target_=my_late_stage.run"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    (tmp_path / "my_late_stage.py").write_text(STAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_late_stage", raising=False)  # another test's
    return tmp_path


def late(*overrides, end="result"):
    Path("end").write_text(end)
    return run_config(composed(*LATE, "output=run", *overrides))


def killed(*overrides, end):
    """The same in a process that is killed."""
    Path("end").write_text(end)
    done = subprocess.run(
        command(*LATE, "output=run", *overrides), env=environment(), capture_output=True, check=False, timeout=200
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("words", [[], ["force=true"], ["preflight=true"]], ids=" ".join)
@pytest.mark.parametrize("output", ["thesis", "thesis/", "''", ".", "/"])
def test_nothing_is_written_to_or_deleted_from_a_folder_of_somebody_elses(output, words, here):
    thesis(here / "thesis")
    before = contents(here)
    with pytest.raises(UserError, match="output="):
        run_config(composed(*TOY, f"output={output}", *words))
    assert contents(here) == before


def test_a_sweep_refuses_it_before_its_first_job(here, monkeypatch, capfd):
    thesis(here / "thesis")
    before = contents(here / "thesis")
    assert sweep_here("--multirun", *TOY, "seed=3", "output=thesis", "force=true", monkeypatch=monkeypatch) == 2
    assert "holds other files" in capfd.readouterr().err
    assert contents(here / "thesis") == before


# What makes another run of it, and what the refusal names.
ANOTHER = [
    (["seed=5"], "seed"),
    (["solver=linear"], "solver._target_"),
    (["training.clip=0.5"], "training.clip"),
    (["stage.name=other"], "stage.name"),
    (["evaluate.split=train"], "evaluate.split"),
    (["objectives=[helpful,concise,polite]"], "objectives.polite"),
    (["conditioning=embedding", "solver=linear"], "conditioning"),
]
THE_SAME = [[], ["logger.project=mine"], ["trainer.threads=1"], ["cache_dir=elsewhere"]]


@pytest.mark.slow("whole runs")
def test_another_runs_numbers_are_never_shown_as_this_ones(here, monkeypatch, capfd):
    late()
    before = contents(here / "run")
    for words, named in ANOTHER:
        with pytest.raises(UserError, match=named) as caught:
            late(*words)
        assert "force=true" in caught.value.hint
    assert contents(here / "run") == before
    for words in THE_SAME:
        assert late(*words) == RunRecord(here / "run").read_result()
    capfd.readouterr()
    assert sweep_here("--multirun", *LATE, "seed=5", "output=run", monkeypatch=monkeypatch) == 2
    assert "different: seed" in capfd.readouterr().err
    assert contents(here / "run") == before


@pytest.mark.parametrize("end", ["mistake", "bug", "signal"])
def test_what_is_wrong_and_found_late_does_not_cost_the_finished_run(end, here):
    late()
    (here / "run" / "notes.txt").write_text("mine")
    before = contents(here / "run")
    with pytest.raises(BaseException):  # noqa: B017 - each end has its own
        late("seed=1", "force=true", end=end)
    assert contents(here / "run") == before
    assert late("seed=1", "force=true")["seed"] == 1
    assert (here / "run" / "policy" / "weights").read_text() == "1"
    assert (here / "run" / "notes.txt").read_text() == "mine"
    assert [row["x"] for row in RunRecord(here / "run").read_metrics()] == [1.0]


@pytest.mark.slow("whole runs")
def test_a_kill_after_the_move_puts_the_finished_run_back_at_the_next_start(here):
    late()
    before = contents(here / "run")
    killed("seed=1", "force=true", end="kill")
    assert is_run(here / "run")
    assert late()["seed"] == 0
    assert contents(here / "run") == before


@pytest.mark.slow("whole runs")
def test_a_new_run_that_can_be_gone_on_with_is_what_is_kept(here):
    late()
    killed("seed=1", "force=true", end="checkpoint")
    with pytest.raises(UserError, match="different: "):
        late()
    assert RunRecord(here / "run").read_config()["seed"] == 1
    assert not (here / "run" / ".replaced").exists()


@pytest.mark.slow("whole runs")
def test_a_run_that_begins_again_has_every_row_once(here):
    for end in ("mistake", "bug"):
        with pytest.raises((UserError, RuntimeError)):
            late(end=end)
    killed(end="kill")
    late()
    record = RunRecord(here / "run")
    assert len(record.read_generations()) == len(record.read_metrics()) == 1


def test_the_status_is_as_result_and_lock_have_it(tmp_path):
    record = RunRecord.open(tmp_path / "run")
    table = [  # what is written, whether there is a result, whether a process is at work: what is read
        ("running", False, True, "running"),
        ("running", False, False, "dead"),
        ("complete", False, False, "dead"),
        ("complete", False, True, "running"),
        ("running", True, False, "complete"),
        ("complete", True, False, "complete"),
        ("failed", False, False, "failed"),
        ("interrupted", False, False, "interrupted"),
    ]
    for written, has_result, at_work, said in table:
        record.write_status(written, 3)
        (record.folder / "result.json").unlink(missing_ok=True)
        if has_result:
            record.write_result({})
        if at_work:
            with record.lock():
                assert record.read_status()["state"] == said
        else:
            assert record.read_status()["state"] == said, (written, has_result)


def test_a_result_without_its_status_is_given_it(here):
    late()
    record = RunRecord(here / "run")
    record.write_status("running", 1)
    late()
    assert json.loads((record.folder / "status.json").read_text())["state"] == "complete"


def test_rows_of_the_end_are_written_after_the_last_checkpoint_and_dropped_with_a_resume(tmp_path):
    record = RunRecord.open(tmp_path / "run")
    record.log_generations(2, [{"response": "validation"}])
    record.log_generations(3, [{"response": "validation"}])
    record.log_generations(3, [{"split": "test", "response": "a"}, {"split": "grid", "response": "b"}])
    record.truncate(3)
    assert [(row["step"], row["response"]) for row in record.read_generations()] == [
        (2, "validation"),
        (3, "validation"),
    ]


def test_volatile_keys_are_the_ones_that_may_differ():
    assert {"output", "cache_dir", "force", "preflight", "logger", "trainer"} == set(naming.VOLATILE)
