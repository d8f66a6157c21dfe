"""stage=mod: experts mixed while decoding, a front without training; and what it refuses."""

import json

import pytest

from commands import run_here
from pama_exp.comparison import load_runs
from pama_exp.errors import UserError


@pytest.fixture(scope="module")
def experts(tmp_path_factory, shared_cache):
    root = tmp_path_factory.mktemp("experts")
    common = ["reward=gold", "solver=linear", "training.learning_rate=1e-2"]
    return {
        name: run_here(f"objectives={name}", *common, output=root / name, cache=shared_cache).folder
        for name in ("harmless", "concise")
    }


@pytest.mark.parametrize("rollout", ["auto", "hf"])
def test_a_mixture_lies_between_its_experts_and_trains_nothing(rollout, experts, tmp_path, shared_cache):
    listed = ",".join(map(str, experts.values()))
    settings = ["stage=mod", f"mod.runs=[{listed}]", "mod.grid=2", f"rollout={rollout}"]
    record = run_here(*settings, output=tmp_path / "mod", cache=shared_cache)
    result = record.read_result()
    points = {tuple(point["preference"].values()): point["objectives"] for point in result["points"]}
    assert set(points) == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    own = {name: json.loads((folder / "result.json").read_text()) for name, folder in experts.items()}
    if rollout == "auto":  # the engine that evaluated the experts: the same random numbers, token for token
        assert points[1.0, 0.0]["harmless"] == own["harmless"]["objectives"]["harmless"]["after"]
        assert points[0.0, 1.0]["concise"] == own["concise"]["objectives"]["concise"]["after"]
    assert points[1.0, 0.0] != points[0.0, 1.0]
    assert result["objectives"]["harmless"]["after"] == points[0.5, 0.5]["harmless"]
    for key in ("prompts", "tokens", "forwards", "backwards"):
        assert result["bill"][key] == sum(one["bill"][key] for one in own.values())
    serving = result["serving"]
    assert (serving["models"], serving["passes_per_token"]) == (2, 2)
    lengths = [row["eval/response/length"] for row in record.read_metrics()]
    assert serving["tokens"] == pytest.approx(32 * sum(lengths), abs=0.5)  # 32 prompts at each of three shares
    assert serving["passes"] == 2 * serving["tokens"]
    assert not (record.folder / "policy").exists()
    run = load_runs([record.folder])[0]
    assert (run.status, run.solver, run.seed) == ("complete", "mod", 0)


def test_a_mixture_is_compared_with_its_soup(experts, tmp_path, shared_cache):
    listed = ",".join(map(str, experts.values()))
    for stage in ("mod", "soup"):
        settings = [f"stage={stage}", f"{stage}.runs=[{listed}]", f"{stage}.grid=2"]
        run_here(*settings, output=tmp_path / "runs" / stage, cache=shared_cache)
    compared = ["stage=compare", f"compare.runs=[{tmp_path / 'runs'}]"]
    done = run_here(*compared, output=tmp_path / "comparison", cache=shared_cache)
    content = json.loads((done.folder / "comparison.json").read_text())
    fronts = {front["family"]: front for front in content["fronts"]}
    assert set(fronts) == {"mod", "soup"}
    assert content["controlled"]
    assert fronts["mod"]["bill"] == fronts["soup"]["bill"]
    ends = [[front["points"][0], front["points"][-1]] for front in (fronts["mod"], fronts["soup"])]
    assert ends[0] == ends[1]  # at its ends each is the experts themselves
    assert fronts["mod"]["points"][1] != fronts["soup"]["points"][1]


@pytest.mark.slow("whole runs")
def test_experts_may_have_learned_from_pairs(tmp_path, shared_cache):
    for name in ("helpful", "concise"):
        settings = [f"objectives={name}", "stage=dpo", "reward=gold", "dpo.steps=3", "dpo.batch_size=8"]
        run_here(*settings, output=tmp_path / name, cache=shared_cache)
    listed = f"[{tmp_path / 'helpful'},{tmp_path / 'concise'}]"
    record = run_here("stage=mod", f"mod.runs={listed}", output=tmp_path / "mod", cache=shared_cache)
    assert record.read_result()["bill"]["pairs"] == 2 * 3 * 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["mod.runs=[]"], "mod.runs=\\[\\] names fewer than two"),
        (["mod.runs=[{harmless},{harmless}]"], "another than the rest"),
        (["mod.runs=[{harmless},{concise}]", "rollout=vllm"], "rollout=vllm|rollout=fast"),
    ],
    ids=["none", "twice", "vllm"],
)
def test_what_cannot_be_mixed_is_refused(settings, said, experts, tmp_path, shared_cache):
    filled = [one.format(**experts) for one in settings]
    with pytest.raises(UserError, match=said):
        run_here("stage=mod", *filled, output=tmp_path / "mod", cache=shared_cache)
