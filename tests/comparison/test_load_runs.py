"""Run folders are found wherever they are, and shown as what they are."""

import json

import pytest

from pama_exp.comparison import load_runs, split_by_objectives
from pama_exp.errors import UserError
from records import write_run

AFTER = {"helpful": 0.6, "concise": 0.7}


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    write_run(tmp_path / "a" / "one", after=AFTER)
    write_run(tmp_path / "b" / "deeper" / "two", "seed=1", after=AFTER)
    found = load_runs([tmp_path, tmp_path / "a", tmp_path / "a" / "one"])
    assert [run.name for run in found] == ["one", "two"]
    assert [run.seed for run in found] == [0, 1]
    assert found[0].result["objectives"]["helpful"]["after"]["gold"] == 0.6


def test_what_is_inside_a_run_or_belongs_to_another_program_is_no_run(tmp_path):
    run = write_run(tmp_path / "one", after=AFTER)
    inner = run.folder / "wandb" / "files"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("wandb_version: 1\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("a: [1,\n")
    assert [run.name for run in load_runs([tmp_path])] == ["one"]


def test_a_status_says_how_a_run_ended(tmp_path):
    write_run(tmp_path / "done", after=AFTER)
    write_run(tmp_path / "failed", state="failed", detail="boom")
    write_run(tmp_path / "interrupted", state="interrupted")
    write_run(tmp_path / "silent", state="running")
    write_run(tmp_path / "almost", state="complete")  # ended before its result was written
    (write_run(tmp_path / "damaged").folder / "result.json").write_text('{"status": ')
    (write_run(tmp_path / "early").folder / "status.json").unlink()
    at_work = write_run(tmp_path / "working", state="running")
    with at_work.lock():
        found = {run.name: run for run in load_runs([tmp_path])}
    assert {name: run.status for name, run in found.items()} == {
        "almost": "dead", "damaged": "damaged", "done": "complete", "early": "dead", "failed": "failed",
        "interrupted": "interrupted", "silent": "dead", "working": "running",
    }  # fmt: skip
    assert found["failed"].detail == "boom"
    assert [name for name, run in found.items() if run.result is not None] == ["done"]


def test_looking_does_not_stop_a_run_from_starting(tmp_path):
    record = write_run(tmp_path / "silent", state="running")
    load_runs([tmp_path])
    with record.lock():
        assert load_runs([tmp_path])[0].status == "running"


def test_metrics_are_read_when_asked_for(tmp_path):
    record = write_run(tmp_path / "one", after=AFTER)
    run = load_runs([tmp_path])[0]
    record.log_metrics(1, {"x": 2.0})
    record.log_generations(1, [{"response": "hello"}])
    assert run.metrics == [{"step": 1, "x": 2.0}]
    assert run.generations[0]["response"] == "hello"


def test_weights_of_solver_and_objectives_are_the_same_preference(tmp_path):
    write_run(tmp_path / "a", "solver.weights=[1,3]")
    write_run(tmp_path / "b", "objectives.helpful.weight=0.5", "objectives.concise.weight=1.5")
    first, second = load_runs([tmp_path])
    assert first.preference == second.preference == {"helpful": 0.25, "concise": 0.75}
    assert first.settings == second.settings


def test_a_solver_with_a_seed_of_its_own_makes_no_other_configuration(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), f"+solver.seed={seed}", f"seed={seed}")
    first, second = load_runs([tmp_path])
    assert first.settings == second.settings


def test_runs_of_other_objectives_are_told_apart_whatever_their_order(tmp_path):
    write_run(tmp_path / "a", "objectives=[helpful,concise]")
    write_run(tmp_path / "b", "objectives=[concise,helpful]")
    write_run(tmp_path / "c", "objectives=[helpful,humor]")
    write_run(tmp_path / "d", "stage=sft")
    assert [[run.name for run in part] for part in split_by_objectives(load_runs([tmp_path]))] == [["a", "b"], ["c"]]


def test_no_folder_and_no_run_are_said_in_two_lines(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="No run in"):
        load_runs([tmp_path])
    with pytest.raises(UserError, match="No run in no folder"):
        load_runs([])


def test_a_soup_is_described_by_its_experts(tmp_path):
    expert = write_run(tmp_path / "expert", "training.clip=0.1", "seed=4")
    write_run(
        tmp_path / "soup", "stage=soup", after=AFTER, config=expert.read_config() | {"stage": {"name": "soup"}}, seed=4
    )
    soup = next(run for run in load_runs([tmp_path]) if run.stage == "soup")
    assert soup.solver == "soup"
    assert soup.seed == 4
    assert soup.settings["training.clip"] == 0.1
    assert json.loads((soup.folder / "result.json").read_text())["config"] == soup.config


def test_a_run_from_pairs_has_its_own_label_steps_and_settings(tmp_path):
    pairs = ["stage=dpo", "dpo.method=modpo", "dpo.steps=7", "solver=linear"]
    write_run(tmp_path / "pairs", *pairs, "solver.weights=[0.3,0.7]", "seed=1", after=AFTER)
    write_run(tmp_path / "plain", "solver=linear", after=AFTER)
    by_stage = {run.stage: run for run in load_runs([tmp_path])}
    run = by_stage["dpo"]
    assert (run.solver, run.steps, run.seed) == ("modpo", 7, 1)
    assert run.preference == {"helpful": 0.3, "concise": 0.7}
    assert run.settings["dpo.method"] == "modpo"
    assert not any(key.startswith("solver.") for key in run.settings)
    assert by_stage["align"].steps == 60
    assert not any(key.startswith(("dpo.", "mod.", "judge.")) for key in by_stage["align"].settings)
