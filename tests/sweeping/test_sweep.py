"""What a sweep does for the person who typed it: every job in its own process, resumed, watched, summed up."""

import pytest

from commands import FAST, run_command
from pama_exp.tracking.record import RunRecord
from sweeping.toy import TOY, jobs, prepare, ran, sweep_here

MISBEHAVE = """
import os, signal, sys
from pathlib import Path

def score(prompts, completions, **columns):
    killed = [path for path in Path("runs").glob("*-pama-*/checkpoints/step-00000002.ckpt")]
    if "solver=pama" in sys.argv and Path("kill").exists() and killed:
        os.kill(os.getpid(), signal.SIGKILL)
    if "solver=linear" in sys.argv and Path("crash").exists():
        raise RuntimeError("made to crash")
    return [float(len(text)) for text in completions]
"""


@pytest.mark.slow("a sweep of whole runs")
def test_baselines_with_one_job_killed_in_the_middle_and_one_made_to_crash(tmp_path, shared_cache, monkeypatch, capfd):
    (tmp_path / "misbehave.py").write_text(MISBEHAVE)
    (tmp_path / "kill").touch()
    (tmp_path / "crash").touch()
    monkeypatch.chdir(tmp_path)
    where = "objectives.concise.scorers.factworld"
    custom = [f"~{where}.program", f"+{where}.function='misbehave:score'", "reward=gold", f"cache_dir={shared_cache}"]
    line = ["+sweep=baselines", "solver=pama,linear,mgda", "seed=0", *FAST, *custom, "hydra.launcher.workers=2"]

    assert sweep_here(*line, monkeypatch=monkeypatch) == 1
    said = capfd.readouterr().out
    first = jobs(tmp_path)
    assert [job["state"] for job in first] == ["failed", "failed", "finished"]
    assert "killed by SIGKILL" in said
    assert "RuntimeError: made to crash" in said, "the failing job's last lines are shown"
    runs = [RunRecord(tmp_path / "runs" / job["folder"]) for job in first]
    assert (runs[0].is_complete, runs[1].is_complete, runs[2].is_complete) == (False, False, True)
    assert runs[0].last_step() == 2, "killed in the middle"
    finished = (runs[2].folder / "result.json").stat().st_mtime_ns

    (tmp_path / "kill").unlink()
    (tmp_path / "crash").unlink()
    assert sweep_here(*line, monkeypatch=monkeypatch) == 0
    second = jobs(tmp_path)
    assert [job["state"] for job in second] == ["finished"] * 3
    assert [job["attempts"] for job in second] == [1, 1, 0], "the second call runs just those two"
    assert (runs[2].folder / "result.json").stat().st_mtime_ns == finished
    assert "misbehave:score" in " ".join(second[0]["command"]), "what runs a job alone is kept"
    page = next((tmp_path / "runs/sweeps").glob("*/report/index.html")).read_text()
    assert all(job["folder"].rpartition("/")[2] in page for job in second), "the sweep ends with its report"
    assert "Resuming from step 2 of 3." in (tmp_path / "runs/sweeps" / second[0]["log"]).read_text()


@pytest.mark.slow("a sweep of whole runs")
def test_a_sweep_of_a_preset_of_ones_own_with_a_value_from_the_command_line(tmp_path, monkeypatch, capfd):
    prepare(tmp_path, monkeypatch)
    preset = tmp_path / "my_conf" / "sweep" / "clips.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        "# @package _global_\nseed: 3\ntraining: {steps: 9}\nhydra: {sweeper: {params: {training.clip: '0.1,0.2', seed: '3,4'}}}\n"
    )
    line = ["--config-dir", "my_conf", "+sweep=clips", *TOY, "training.steps=5", "seed=7"]
    assert sweep_here(*line, monkeypatch=monkeypatch) == 0
    assert ran(tmp_path) == ["0.10", "0.20"]
    said = capfd.readouterr().out
    assert "2 finished." in said
    assert "helpful 0.990  concise 0.190" in said
    for job in jobs(tmp_path):
        config = RunRecord(tmp_path / job["folder"]).read_config()
        assert (config["seed"], config["training"]["steps"]) == (7, 5)
        assert config["logger"]["group"].startswith("clips-"), "jobs of one sweep share a W&B group"

    assert sweep_here(*line, monkeypatch=monkeypatch) == 0
    assert ran(tmp_path) == ["0.10", "0.20"], "finished jobs are not run again"
    assert "2 of them finished before" in capfd.readouterr().out
    assert not (tmp_path / "app.log").exists(), "nothing is left beside the runs"


@pytest.mark.slow("a sweep of runs in two processes")
def test_a_job_of_several_processes(tmp_path, shared_cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processes = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    line = ["--multirun", *FAST, *processes, "seed=0", "reward=gold", f"cache_dir={shared_cache}"]
    assert sweep_here(*line, "logger=none", monkeypatch=monkeypatch) == 0
    [run] = [RunRecord(tmp_path / "runs" / job["folder"]) for job in jobs(tmp_path)]
    assert run.is_complete
    assert run.read_config()["trainer"]["devices"] == 2


MISTAKES = [
    (["+sweep=baseline"], ["Unknown sweep 'baseline'", "Did you mean 'baselines'", "seeds"]),
    (["+sweep=seeds", "seeed=1,2"], ["Unknown key 'seeed'", "Did you mean 'seed'"]),
    (["+sweep=seeds", "solver=pama,liner"], ["Unknown solver 'liner'", "Did you mean 'linear'"]),
    (["--multirun", "solver=pama,linear", "solver.granularity=batch"], ["Unknown key 'solver.granularity'"]),
    (["--multirun", "training.clip=0.2,1.5"], ["Job 1 (training.clip=1.5)", "above 0 and below 1"]),
    (["--multirun", "training.steps=2,many"], ["Job 1 (training.steps=many)", "many"]),
    (["--multirun", "objectives=[helpful,concise],[helpful,helpful]"], ["helpful", "twice"]),
    (
        ["--multirun", "objectives=[helpful,concise],[helpful,honest,polite]", "solver.weights=[1,1]"],
        ["Job 1", "3 objectives"],
    ),
    (["--multirun", "seed=0,1", "output=here"], ["Jobs 0 and 1", "output="]),
    (["--multirun", "training.clip=interval(0.1,0.5)"], ["hydra/sweeper=pareto"]),
    (["+sweep=seeds", "hydra.launcher.workerz=2"], ["hydra.launcher.workerz", "workers"]),
    (["+sweep=seeds", "hydra.launcher.workers=0"], ["hydra.launcher.workers=0"]),
    (["+sweep=seeds", "hydra/launcher=proceses"], ["proceses", "processes"]),
    (["seed=1,2"], ["seed=1,2", "--multirun"]),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_named_before_the_first_job_starts(words, said, tmp_path, monkeypatch, capfd):
    prepare(tmp_path, monkeypatch)
    assert sweep_here(*words, *TOY, monkeypatch=monkeypatch) == 2
    shown = capfd.readouterr().err
    assert len(shown.strip().splitlines()) == 2, shown
    for word in said:
        assert word in shown
    assert ran(tmp_path) == []
    assert not (tmp_path / "runs").exists()


def test_from_any_folder_as_a_command(tmp_path):
    done = run_command("+sweep=seeds", "solver=pamma", "model=micro", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Unknown solver 'pamma'.")
