"""A real offline W&B run, read back: metrics, configuration, generations."""

from commands import run_here
from pama_exp.tracking.run_wandb import read_offline


def test_the_offline_run_holds_metrics_config_and_generations(tmp_path, shared_cache):
    record = run_here(
        "reward=gold", "logger.mode=offline", "logger.group=g1", output=tmp_path / "run", cache=shared_cache
    )
    run = read_offline(record.folder)
    assert run["config"]["experiment"]["solver"]["_target_"] == "pama_exp.moo.pama.PAMA"
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
