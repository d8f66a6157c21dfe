"""Runs looked at without a browser: listed with their state, shown, compared, and the offline ones listed."""

import fcntl

import pytest

from pama_exp import runs, sync
from synthetic import write_runs, write_whole


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "180")
    write_runs(tmp_path, 2, solvers=("pama", "linear"))
    write_whole(tmp_path / "gone", "seed=5", state="running", reach=0.5)
    return tmp_path


def line(text, name):
    return next(row for row in text.splitlines() if name in row)


def test_the_list_tells_running_from_dead_by_the_lock(root, capsys):
    held = write_whole(root / "alive", "seed=6", state="running", reach=0.5)
    with (held.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert runs.main([str(root)]) == 0
    said = capsys.readouterr().out
    assert "running" in line(said, "alive")
    assert "dead" in line(said, "gone")
    assert "30/60" in line(said, "gone")
    assert "complete" in line(said, "pama-s0")
    assert "helpful + concise" in line(said, "pama-s0")


def test_one_run_is_shown_with_its_command_and_result(root, capsys):
    assert runs.main(["show", str(root / "pama-s0")]) == 0
    said = capsys.readouterr().out
    assert "python run.py solver=pama seed=0" in said
    assert "complete, step 60" in said
    assert runs.main(["show", str(root / "gone")]) == 0
    assert "Newest rewards: helpful 0." in capsys.readouterr().out


def test_two_runs_differ_in_their_solver_and_their_result(root, capsys):
    assert runs.main(["diff", str(root / "pama-s0"), str(root / "linear-s0")]) == 0
    said = capsys.readouterr().out
    assert "pama_exp.solvers.pama.PAMA" in line(said, "solver._target_")
    assert "objectives.helpful.after.gold" in said
    assert "training.steps" not in said
    assert runs.main(["diff", str(root / "pama-s0"), str(root / "pama-s0")]) == 0
    assert capsys.readouterr().out.count("no difference") == 2


@pytest.mark.parametrize("words", [["nowhere"], ["show"], ["diff", "a"], ["show", "."], ["a", "b"]])
def test_mistakes_are_two_lines(words, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert runs.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_offline_runs_are_listed_and_the_uploaded_ones_marked(tmp_path, monkeypatch, capsys):
    from pama_exp.tracking.run_wandb import finish, start_run

    monkeypatch.setenv("COLUMNS", "160")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        finish(start_run(tmp_path / name, "offline", "p", name, f"id-{name}", None, None, [], {}), {})
    log = next((tmp_path / "second").glob("wandb/offline-run-*/*.wandb"))
    log.with_name(log.name + ".synced").touch()  # as `wandb sync` leaves it
    assert sync.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "id-first" in line(said, "first")
    assert "offline" in line(said, "id-first")
    assert "uploaded" in line(said, "id-second")
    assert "1 not uploaded" in said


def test_nothing_to_sync_is_said(tmp_path, capsys):
    assert sync.main([str(tmp_path)]) == 2
    assert "No offline W&B run" in capsys.readouterr().err
