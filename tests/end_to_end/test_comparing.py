"""From runs to a comparison: soups of experts, the stage that compares, and what it refuses."""

import csv
import json

import pytest
import torch

from commands import run_here
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model
from pama_exp.stages.soup import average, shares
from records import write_run


@pytest.fixture(scope="module")
def experts(tmp_path_factory, shared_cache):
    root = tmp_path_factory.mktemp("experts")
    return {
        name: run_here(
            f"objectives={name}", "solver=linear", "reward=gold", output=root / name, cache=shared_cache
        ).folder
        for name in ("helpful", "concise")
    }


def test_a_soup_lies_between_its_experts_and_pays_for_both(experts, tmp_path, shared_cache):
    listed = ",".join(map(str, experts.values()))
    soup = run_here("stage=soup", f"soup.runs=[{listed}]", "soup.grid=2", output=tmp_path / "soup", cache=shared_cache)
    result = soup.read_result()
    points = {tuple(point["preference"].values()): point["objectives"] for point in result["points"]}
    assert set(points) == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    own = {name: json.loads((folder / "result.json").read_text()) for name, folder in experts.items()}
    # At the ends of the grid stand the experts themselves, sampled with the same random numbers.
    assert points[1.0, 0.0]["helpful"] == own["helpful"]["objectives"]["helpful"]["after"]
    assert points[0.0, 1.0]["concise"] == own["concise"]["objectives"]["concise"]["after"]
    assert result["objectives"]["helpful"]["after"] == points[0.5, 0.5]["helpful"]
    assert result["bill"]["prompts"] == sum(one["bill"]["prompts"] for one in own.values()) == 2 * 3 * 16
    assert len(soup.read_metrics()) == 3


def test_weights_are_averaged_one_by_one(experts):
    models = [load_model(folder / "policy") for folder in experts.values()]
    mixed = average([model.state_dict() for model in models], (0.25, 0.75))
    name, first = next(iter(models[0].named_parameters()))
    second = dict(models[1].named_parameters())[name]
    assert not torch.equal(first, second)
    torch.testing.assert_close(mixed[name], first + 0.75 * (second - first))


def test_shares_are_every_multiple_in_the_simplex():
    assert list(shares(2, 2)) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    found = list(shares(3, 4))
    assert len(found) == len(set(found)) == 15  # C(4 + 2, 2)
    assert all(sum(share) == 1 and min(share) >= 0 for share in found)


@pytest.mark.parametrize(
    ("runs", "hint"),
    [
        ([], "fewer than two"),
        (["helpful", "helpful"], "another than the rest"),
        (["helpful", "nowhere"], "does not exist"),
    ],
)
def test_a_soup_refuses_what_is_not_one(runs, hint, experts, tmp_path, shared_cache):
    listed = ",".join(str(experts["helpful"].parent / name) for name in runs)
    with pytest.raises(UserError, match=hint):
        run_here("stage=soup", f"soup.runs=[{listed}]", output=tmp_path / "soup", cache=shared_cache)


def test_experts_of_unequal_training_are_refused(experts, tmp_path, shared_cache):
    other = run_here(
        "objectives=concise",
        "solver=linear",
        "reward=gold",
        "training.clip=0.1",
        output=tmp_path / "other",
        cache=shared_cache,
    )
    with pytest.raises(UserError, match=r"differ in training\.clip"):
        run_here(
            "stage=soup",
            f"soup.runs=[{experts['helpful']},{other.folder}]",
            output=tmp_path / "soup",
            cache=shared_cache,
        )


@pytest.mark.slow("six whole runs")
def test_comparing_real_runs_leaves_tables_and_pictures(experts, tmp_path, shared_cache, capfd):
    runs = tmp_path / "runs"
    for solver in ("pama", "linear"):
        for seed in (0, 1):
            run_here(
                f"solver={solver}", f"seed={seed}", "reward=gold", output=runs / f"{solver}{seed}", cache=shared_cache
            )
    listed = ",".join(map(str, experts.values()))
    run_here("stage=soup", f"soup.runs=[{listed}]", "soup.grid=2", output=runs / "soup", cache=shared_cache)
    write_run(runs / "crashed", "seed=2", state="failed", detail="boom")
    capfd.readouterr()
    done = run_here("stage=compare", f"compare.runs=[{runs}]", output=tmp_path / "comparison", cache=shared_cache)
    printed = capfd.readouterr().out
    assert "pama" in printed
    assert "1 failed" in printed
    content = json.loads((done.folder / "comparison.json").read_text())
    assert [group["label"] for group in content["groups"]] == ["linear", "pama", "soup"]
    assert content["controlled"]
    assert content["unfinished"] == [{"folder": str(runs / "crashed"), "seed": 2, "status": "failed", "detail": "boom"}]
    soup = next(front for front in content["fronts"] if front["family"] == "soup")
    assert len(soup["points"]) == 3
    assert soup["bill"]["prompts"] == 2 * 3 * 16
    with (done.folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    by_folder = {row["folder"]: row for row in rows}
    own = json.loads((runs / "pama1" / "result.json").read_text())
    row = by_folder[str(runs / "pama1")]
    assert float(row["gold/helpful/after"]) == own["objectives"]["helpful"]["after"]["gold"]
    assert float(row["share"]) == pytest.approx(own["true_hypervolume_share"]["after"])
    assert float(row["regret"]) == own["true_front"]["after"]["regret"]
    # The units for worlds without a front: the SFT policy's own rewards, whatever was trained afterwards.
    for name, means in own["objectives"].items():
        assert own["calibration"][name]["gold"]["mean"] == means["before"]["gold"]
    assert own["calibration"]["concise"]["proxy"]["deviation"] > 0
    other = json.loads((runs / "linear1" / "result.json").read_text())
    assert other["calibration"] == own["calibration"]
    for picture in ("operating_points.png", "attainment.png", "gradients.png"):
        assert (done.folder / picture).read_bytes().startswith(b"\x89PNG")
    # Asked again, it is made again: runs may have gone on in the meantime.
    write_run(
        runs / "late",
        "solver=mgda",
        "seed=0",
        "debug=fast",
        "model=micro",
        "reward=gold",
        after={"helpful": 0.5, "concise": 0.5},
    )
    again = run_here("stage=compare", f"compare.runs=[{runs}]", output=tmp_path / "comparison", cache=shared_cache)
    assert "mgda" in (again.folder / "comparison.md").read_text()


def test_runs_of_other_objectives_are_compared_separately(tmp_path, shared_cache, capfd):
    runs = tmp_path / "runs"
    write_run(runs / "two", after={"helpful": 0.5, "concise": 0.5})
    write_run(runs / "other", "objectives=[helpful,harmless]", after={"helpful": 0.5, "harmless": 0.5})
    write_run(runs / "unfinished", "objectives=[humor]", state="running")
    done = run_here("stage=compare", f"compare.runs=[{runs}]", output=tmp_path / "comparison", cache=shared_cache)
    assert (done.folder / "helpful+concise" / "comparison.json").exists()
    assert (done.folder / "helpful+harmless" / "comparison.json").exists()
    printed = capfd.readouterr().out
    assert "2 sets of objectives" in printed
    assert "None of the 1 runs of humor is finished" in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compare.runs=[{tmp}/nowhere]"], "does not exist"),
        (["compare.runs=[{tmp}/empty]"], "No run in"),
        (["compare.runs=[]"], "No run in no folder"),
        (["compare.runs=[{tmp}/unfinished]"], "None of the 1 runs has a result"),
        (["compare.runs=[{tmp}/runs]", "compare.baseline=pamma"], "compare.baseline=pamma"),
    ],
)
def test_what_cannot_be_compared_is_said_in_two_lines(overrides, message, tmp_path, shared_cache):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "unfinished", state="interrupted")
    write_run(tmp_path / "runs" / "one", after={"helpful": 0.5, "concise": 0.5})
    filled = [override.format(tmp=tmp_path) for override in overrides]
    with pytest.raises(UserError, match=message):
        run_here("stage=compare", *filled, output=tmp_path / "comparison", cache=shared_cache)
