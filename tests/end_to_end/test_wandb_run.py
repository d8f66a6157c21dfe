"""A real offline W&B run, read back: metrics, configuration, group, tags, generations and the front."""

import pytest

from commands import run_here
from pama_exp.tracking.run_wandb import read_offline


@pytest.fixture(scope="module")
def record(tmp_path_factory, shared_cache):
    overrides = [
        "reward=gold",
        "logger.mode=offline",
        "logger.group=g1",
        "logger.tags=[first]",
        "logger.artifacts=true",
    ]
    return run_here(*overrides, output=tmp_path_factory.mktemp("wandb") / "run", cache=shared_cache)


@pytest.fixture(scope="module")
def run(record):
    return read_offline(record.folder)


def test_the_offline_run_holds_metrics_config_and_generations(record, run):
    assert run["config"]["experiment"]["solver"]["_target_"] == "pama_exp.solvers.pama.PAMA"
    assert run["config"]["experiment"]["training"]["steps"] == 3
    own = {row["step"]: row for row in record.read_metrics() if "reward/helpful/mean" in row}
    logged = {row["train/step"]: row for row in run["history"] if "reward/helpful/mean" in row}
    assert set(logged) == {1.0, 2.0, 3.0}
    for step, row in own.items():
        for name in ("reward/helpful/mean", "kl/response", "solver/binding_share/concise", "policy/entropy"):
            assert abs(logged[step][name] - row[name]) < 1e-6
    evaluations = [row for row in run["history"] if "eval/gold/helpful/mean" in row]
    assert len(evaluations) == 3  # before, step 2, step 3
    table = run["tables"]["generations"]
    assert {"prompt", "response", "gold/helpful", "proxy/concise"} <= set(table["columns"])
    assert len(table["data"]) > 0


def test_it_holds_group_job_type_tags_and_summary(record, run):
    assert run["group"] == "g1"
    assert run["job_type"] == "align"
    assert set(run["tags"]) == {"pama", "helpful", "concise", "first"}
    assert run["summary"]["result"]["status"] == "complete"
    assert run["summary"]["result"]["bill"]["prompts"] == record.read_result()["bill"]["prompts"]


def test_it_holds_the_front_and_both_operating_points(record, run):
    front = run["tables"]["front"]
    assert front["columns"] == ["point", "gold/helpful", "gold/concise"]
    kinds = [row[0] for row in front["data"]]
    assert kinds.count("true front") > 50
    after = {name: means["after"]["gold"] for name, means in record.read_result()["objectives"].items()}
    aligned = front["data"][kinds.index("aligned policy")][1:]
    assert aligned == pytest.approx(list(after.values()))


def test_artifacts_are_logged_where_they_are_asked_for(run):
    assert sorted(name.split("-")[0] for name in run["artifacts"]) == ["checkpoint", "policy"]
