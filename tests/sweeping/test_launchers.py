"""The other launchers, each in its local mode: four jobs, one of which fails; the second call runs that one alone."""

import json

import pytest

from sweeping.toy import TOY, jobs, prepare, ran, sweep_here

LAUNCHERS = [
    ("joblib", "hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    ("submitit_local", "hydra_plugins.hydra_submitit_launcher", ["hydra.launcher.timeout_min=5"]),
    ("ray", "ray", ["hydra.launcher.cpus=1"]),
]


@pytest.mark.slow("starts four jobs by each launcher")
@pytest.mark.parametrize(("launcher", "package", "settings"), LAUNCHERS, ids=[each[0] for each in LAUNCHERS])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_four_jobs_and_the_one_that_failed_again(launcher, package, settings, tmp_path, monkeypatch, capfd):
    pytest.importorskip(package)
    prepare(tmp_path, monkeypatch)
    (tmp_path / "crash-0.30").touch()
    line = ["--multirun", *TOY, f"hydra/launcher={launcher}", *settings, "training.clip=0.1,0.2,0.3,0.4"]
    assert sweep_here(*line, monkeypatch=monkeypatch) == 1
    assert sorted(ran(tmp_path)) == ["0.10", "0.20", "0.40"]
    states = [job["state"] for job in jobs(tmp_path)]
    assert states == ["finished", "finished", "failed", "finished"]
    assert "3 finished, 1 failed." in capfd.readouterr().out

    (tmp_path / "crash-0.30").unlink()
    assert sweep_here(*line, monkeypatch=monkeypatch) == 0
    assert sorted(ran(tmp_path)) == ["0.10", "0.20", "0.30", "0.40"]
    assert [job["state"] for job in jobs(tmp_path)] == ["finished"] * 4
    if launcher == "ray":
        __import__("ray").shutdown()
    for job in jobs(tmp_path):
        assert json.loads((tmp_path / job["folder"] / "result.json").read_text())["status"] == "complete"
