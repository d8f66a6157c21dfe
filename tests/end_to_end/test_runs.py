"""Every documented way of running finishes and leaves a whole record."""

import json

import numpy as np
import pytest

from commands import run_here
from pama_exp.world.world import FactWorld

WAYS = [
    [],
    ["solver=linear"],
    ["solver=linear", "solver.space=reward"],
    ["solver=mgda"],
    ["solver=mgda", "training.micro_batch_tokens=400"],
    ["solver=mgda-ub"],
    ["solver=pama", "solver.granularity=batch"],
    ["solver=pama", "solver.granularity=sequence", "solver.noon=false"],
    ["objectives=[helpful,harmless,concise]"],
    ["objectives=[humor,polite,honest]", "solver=mgda", "reward=gold"],
    ["objectives=helpful", "reward=gold"],
    ["advantage=group"],
    ["advantage=group", "advantage.baseline=standardise", "training.kl.placement=loss", "training.kl.estimator=k3"],
    ["reward=gold", "objectives.concise.weight=0.3", "objectives.helpful.normaliser=running"],
    ["reward=gold", "objectives.helpful.normaliser=frozen", "training.kl.target=1.0", "training.schedule=cosine"],
    ["reward=gold", "training.mini_batch_size=4", "training.target_kl=0.001", "training.entropy_coefficient=0.01"],
    ["model=tiny-gpt2", "reward=gold", "model.config.n_embd=32", "model.config.n_inner=64", "model.config.n_layer=2"],
    ["stage=sft", "reward=gold"],
    ["stage=evaluate"],
]


def assert_inside_the_front(result):
    """No policy, before or after training, exceeds the true front in any direction."""
    world = FactWorld(num_entities=12, values_per_attribute=6)
    front = world.true_front(list(result["objectives"]), "test")
    for when in ("before", "after"):
        point = np.array([means[when]["gold"] for means in result["objectives"].values()])
        # Evaluation prompts are the first of the split, not all of it: a margin for that sample.
        assert (front.weights @ point <= (front.weights * front.points).sum(1) + 0.05).all()


@pytest.mark.slow("a whole run for each way of running")
@pytest.mark.parametrize("overrides", WAYS, ids=" ".join)
def test_runs_and_leaves_a_record(overrides, tmp_path, shared_cache):
    record = run_here(*overrides, output=tmp_path / "run", cache=shared_cache)
    result = record.read_result()
    assert result["status"] == "complete"
    names = list(result["objectives"])
    for means in result["objectives"].values():
        assert 0.0 <= means["after"]["gold"] <= 1.0
    if "before" in result["true_hypervolume_share"] and not any(o.startswith("stage=") for o in overrides):
        assert all(0.0 <= share <= 1.0 for share in result["true_hypervolume_share"].values())
        last = [row for row in record.read_metrics() if "train/step" in row and "reward/" + names[0] + "/mean" in row][
            -1
        ]
        assert last["step"] == 3
        for name in names:
            assert last[f"solver/binding_share/{name}"] >= 0.0
        assert {
            "kl/response",
            "policy/entropy",
            "response/length",
            "time/generate",
            "throughput/tokens_per_second",
        } <= set(last)
        assert result["bill"]["prompts"] == 3 * 16
        assert_inside_the_front(result)
        assert (record.folder / "curves.png").stat().st_size > 0
        assert (record.folder / "policy" / "config.json").exists()
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    "precision",
    ["bf16-true", *(pytest.param(other, marks=pytest.mark.slow("a whole run")) for other in ("16-true", "bf16-mixed"))],
)
def test_a_policy_of_half_precision_learns_and_is_measured_in_full(precision, tmp_path, shared_cache):
    words = [
        f"trainer.precision={precision}",
        "training.steps=1",
        "reward=gold",
        "objectives.helpful.normaliser=running",
    ]
    record = run_here(*words, output=tmp_path / "run", cache=shared_cache)
    assert record.is_complete
    rows = [row for row in record.read_generations() if row.get("split") == "test"]
    for name, means in record.read_result()["objectives"].items():
        exact = np.mean([row[f"gold/{name}"] for row in rows])
        assert means["after"]["gold"] == pytest.approx(exact, abs=1e-6)


def test_objectives_keep_the_order_given(tmp_path, shared_cache):
    record = run_here("objectives=[concise,helpful]", "reward=gold", output=tmp_path / "run", cache=shared_cache)
    assert list(record.read_result()["objectives"]) == ["concise", "helpful"]


def test_reward_model_stage_says_how_accurate_each_is(tmp_path, shared_cache):
    record = run_here("stage=reward_model", output=tmp_path / "run", cache=shared_cache)
    models = record.read_result()["reward_models"]
    assert list(models) == ["helpful", "concise"]
    assert all(0.0 <= model["held_out_accuracy"] <= 1.0 for model in models.values())


def test_evaluating_a_finished_run_repeats_its_own_after(tmp_path, shared_cache):
    run = run_here("reward=gold", output=tmp_path / "run", cache=shared_cache)
    again = run_here(
        "stage=evaluate", "reward=gold", f"evaluate.run={run.folder}", output=tmp_path / "again", cache=shared_cache
    )
    after = {name: means["after"] for name, means in run.read_result()["objectives"].items()}
    assert {name: means["after"] for name, means in again.read_result()["objectives"].items()} == after


def test_the_same_seed_twice_is_the_same_run_bit_for_bit(tmp_path, shared_cache):
    from commands import learning

    runs = [run_here(output=tmp_path / name, cache=shared_cache) for name in ("one", "two")]
    assert learning(runs[0].read_metrics()) == learning(runs[1].read_metrics())
    assert runs[0].read_generations() == runs[1].read_generations()


def test_another_seed_is_another_run(tmp_path, shared_cache):
    runs = [run_here(f"seed={s}", "reward=gold", output=tmp_path / str(s), cache=shared_cache) for s in (0, 1)]
    assert runs[0].read_metrics()[1]["reward/concise/mean"] != runs[1].read_metrics()[1]["reward/concise/mean"]


def test_a_finished_run_is_not_run_again_without_force(tmp_path, shared_cache, capfd):
    record = run_here("reward=gold", output=tmp_path / "run", cache=shared_cache)
    stamp = (record.folder / "result.json").stat().st_mtime_ns
    run_here("reward=gold", output=tmp_path / "run", cache=shared_cache)
    assert (record.folder / "result.json").stat().st_mtime_ns == stamp
    assert "force=true" in capfd.readouterr().out
    run_here("reward=gold", "force=true", output=tmp_path / "run", cache=shared_cache)
    assert (record.folder / "result.json").stat().st_mtime_ns != stamp


@pytest.mark.parametrize("stage", ["align", "evaluate"])
def test_the_printed_share_can_be_recomputed_from_the_recorded_responses(stage, tmp_path, shared_cache):
    """Share: the area below the mean rewards over that below the true front, here a polygon's."""
    names = ["harmless", "concise"]
    count = ["data.evaluation_prompts=90", "evaluate.prompts=90"]
    words = [f"stage={stage}", "reward=gold", f"objectives=[{','.join(names)}]", *count]
    record = run_here(*words, output=tmp_path / "run", cache=shared_cache)
    rows = [row for row in record.read_generations() if row.get("split") == "test"]
    assert len({row["prompt"] for row in rows}) == len(rows) == 90
    result = record.read_result()
    means = [np.mean([row[f"gold/{name}"] for row in rows]) for name in names]
    assert means == pytest.approx([result["objectives"][name]["after"]["gold"] for name in names], abs=1e-6)
    settings = record.read_config()["data"]["world"]
    points = FactWorld(**settings).true_front(names, "test").points
    corners = sorted({tuple(point) for point in points}, key=lambda point: (point[0], -point[1]))
    x, y = np.array([(0.0, max(y for _, y in corners)), *corners, (max(x for x, _ in corners), 0.0)]).T
    area = np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1])) / 2
    assert 0.1 < result["true_hypervolume_share"]["after"] == pytest.approx(np.prod(means) / area, abs=1e-4)
