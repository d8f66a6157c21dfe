"""Groups, fronts, tests and warnings from synthetic records whose numbers are known."""

import json

import numpy as np
import pytest
from scipy import stats

from pama_exp.comparison import compare, load_runs
from pama_exp.comparison.pictures import draw
from pama_exp.comparison.write import as_dict, markdown, run_rows, write
from pama_exp.errors import UserError
from pama_exp.world import FactWorld
from records import BILL, write_run

WORLD = FactWorld(seed=0, num_entities=12, num_attributes=8, values_per_attribute=6)
PAIR = ("helpful", "concise")
HELPFUL = {"pama": [0.62, 0.66, 0.64], "linear": [0.31, 0.40, 0.34]}
CONCISE = {"pama": 0.70, "linear": 0.85}


def write_two_solvers(folder, *extra, seeds=range(3)):
    for solver in ("pama", "linear"):
        for seed in seeds:
            after = {"helpful": HELPFUL[solver][seed], "concise": CONCISE[solver]}
            write_run(folder / f"{solver}-{seed}", f"solver={solver}", f"seed={seed}", *extra, after=after)


def test_groups_hold_means_over_seeds_and_measures_against_the_true_front(tmp_path):
    write_two_solvers(tmp_path)
    found = compare(load_runs([tmp_path]))
    assert [group.label for group in found.groups] == ["linear", "pama"]
    assert found.is_controlled
    assert found.kind == "gold"
    assert found.yardstick == "true front"
    pama = found.groups[1]
    assert pama.seeds == (0, 1, 2)
    after = pama.rewards["helpful"]["gold"]["after"]
    assert after.mean == pytest.approx(0.64)
    # 0.62, 0.64, 0.66: s = 0.02, t of 2 degrees of freedom = 4.302653, so ± 4.302653 · 0.02 / √3.
    assert (after.low, after.high) == pytest.approx((0.64 - 0.049683, 0.64 + 0.049683), abs=1e-6)
    assert pama.rewards["helpful"]["gold"]["before"].mean == pytest.approx(0.4)
    assert pama.rewards["concise"]["proxy"]["after"].mean == pytest.approx(1.7)
    shares = [WORLD.hypervolume_share([h, 0.70], PAIR, "test") for h in HELPFUL["pama"]]
    assert pama.measures["share"].mean == pytest.approx(np.mean(shares))
    assert pama.values["regret"][0] == pytest.approx(WORLD.regret([0.62, 0.70], PAIR, "test"))
    assert pama.bill == {key: float(value) for key, value in BILL.items()}
    assert found.warnings == ()


def test_paired_tests_are_against_the_baseline_and_corrected_together(tmp_path):
    write_two_solvers(tmp_path)
    found = compare(load_runs([tmp_path]))
    assert found.baseline == "linear"
    assert {(test.group, test.measure) for test in found.tests} == {
        ("pama", "helpful"),
        ("pama", "concise"),
        ("pama", "share"),
    }
    helpful = next(test for test in found.tests if test.measure == "helpful")
    assert helpful.difference.mean == pytest.approx(0.64 - 0.35)
    assert helpful.p == pytest.approx(stats.ttest_rel(HELPFUL["pama"], HELPFUL["linear"]).pvalue)
    assert helpful.p_sign == 0.25
    assert all(test.p <= test.p_holm <= 3 * test.p for test in found.tests)
    swapped = compare(load_runs([tmp_path]), baseline="pama")
    again = next(test for test in swapped.tests if test.measure == "helpful")
    assert (again.group, again.difference.mean) == ("linear", pytest.approx(0.35 - 0.64))
    with pytest.raises(UserError, match=r"compare\.baseline=lineer"):
        compare(load_runs([tmp_path]), baseline="lineer")


def test_labels_tell_only_what_differs(tmp_path):
    for extra in ("batch", "token"):
        write_run(tmp_path / extra, "solver=pama", f"solver.granularity={extra}", after=dict.fromkeys(PAIR, 0.5))
    write_run(tmp_path / "linear", "solver=linear", after=dict.fromkeys(PAIR, 0.5))
    found = compare(load_runs([tmp_path]))
    assert [group.label for group in found.groups] == ["linear", "pama granularity=batch", "pama granularity=token"]
    assert found.is_controlled  # settings of the solver are the solver's
    assert found.warnings == ("One seed only: no interval and no test can be had.",)


def test_two_seeds_are_printed_as_means_alone(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", "solver=linear", f"seed={seed}", after=dict.fromkeys(PAIR, 0.5 + seed / 10))
    found = compare(load_runs([tmp_path]))
    assert found.warnings == ("The groups have fewer than 3 seeds, and so means without intervals.",)
    assert "| linear | 2 | 0.400 → 0.550 | 0.400 → 0.550 |" in markdown(found)


def test_whatever_else_differs_is_listed_and_the_comparison_marked(tmp_path):
    write_run(tmp_path / "a", "solver=pama", "training.clip=0.1", after=dict.fromkeys(PAIR, 0.5))
    write_run(tmp_path / "b", "solver=linear", "trainer.threads=1", after=dict.fromkeys(PAIR, 0.5))
    found = compare(load_runs([tmp_path]))
    assert not found.is_controlled
    assert found.differences == {"training.clip": {"linear clip=0.2": 0.2, "pama clip=0.1": 0.1}}
    assert any("Not controlled" in warning and "training.clip" in warning for warning in found.warnings)
    assert "Not controlled" in markdown(found)


def test_unequal_seeds_unfinished_runs_and_duplicates_are_warned_of(tmp_path):
    write_two_solvers(tmp_path)
    write_run(tmp_path / "more", "solver=pama", "seed=7", after=dict.fromkeys(PAIR, 0.5))
    write_run(tmp_path / "twice", "solver=pama", "seed=7", after=dict.fromkeys(PAIR, 0.9))
    write_run(tmp_path / "failed", "solver=mgda", state="failed", detail="boom")
    write_run(tmp_path / "cut", "solver=mgda", state="interrupted")
    found = compare(load_runs([tmp_path]))
    text = "\n".join(found.warnings)
    assert "linear: 3, pama: 4" in text
    assert "Seed 7 of pama is there twice" in text
    assert "1 failed, 1 interrupted" in text
    assert found.groups[1].values["helpful"][7] == 0.5
    assert all(test.difference.count == 3 for test in found.tests)


def test_runs_of_other_objectives_or_without_any_result_are_refused(tmp_path):
    write_run(tmp_path / "a", after=dict.fromkeys(PAIR, 0.5))
    write_run(tmp_path / "b", "objectives=[helpful,humor]", after={"helpful": 0.5, "humor": 0.5})
    with pytest.raises(UserError, match="different objectives"):
        compare(load_runs([tmp_path]))
    write_run(tmp_path / "c" / "d", state="running")
    with pytest.raises(UserError, match="None of the 1 runs"):
        compare(load_runs([tmp_path / "c"]))


def test_the_order_of_objectives_and_where_weights_stand_make_no_difference(tmp_path):
    write_run(
        tmp_path / "a", "objectives=[helpful,concise]", "solver.weights=[1,3]", after={"helpful": 0.3, "concise": 0.8}
    )
    write_run(
        tmp_path / "b",
        "objectives=[concise,helpful]",
        "objectives.concise.weight=3",
        "seed=1",
        after={"concise": 0.6, "helpful": 0.5},
    )
    (group,) = compare(load_runs([tmp_path])).groups
    assert group.rewards["helpful"]["gold"]["after"].mean == pytest.approx(0.4)
    assert group.values["concise"] == {0: 0.8, 1: 0.6}
    assert group.values["regret"][1] == pytest.approx(WORLD.regret([0.5, 0.6], PAIR, "test"))
    (swapped,) = compare(load_runs([tmp_path / "b"])).groups
    assert swapped.values["regret"][1] == pytest.approx(group.values["regret"][1])


SWEEP = {
    "linear": {0.2: (0.2, 0.9), 0.5: (0.4, 0.8), 0.8: (0.3, 0.5)},
    "pama": {0.2: (0.5, 0.8), 0.5: (0.6, 0.7), 0.8: (0.7, 0.6)},
}


def write_sweeps(folder):
    for solver, row in SWEEP.items():
        for weight, (helpful, concise) in row.items():
            for seed in (0, 1, 2):
                write_run(
                    folder / f"{solver}-{weight}-{seed}", f"solver={solver}", f"solver.weights=[{weight},{round(1 - weight, 1)}]", f"seed={seed}",
                    after={"helpful": helpful + 0.01 * seed, "concise": concise - 0.005 * seed * seed},
                )  # fmt: skip


def test_a_sweep_of_preferences_is_the_front_of_one_solver(tmp_path):
    write_sweeps(tmp_path)
    found = compare(load_runs([tmp_path]))
    assert [group.label for group in found.groups][:2] == ["linear 0.2:0.8", "linear 0.5:0.5"]
    linear, pama = found.fronts
    assert linear.preferences == ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2))
    assert linear.nondominated == (True, True, False)
    assert pama.nondominated == (True, True, True)
    assert pama.points[0] == pytest.approx((0.51, 0.8 - 0.005 * 5 / 3))
    # The volume of seed 0's staircase, by hand: boxes (0.5,0.8), (0.6,0.7), (0.7,0.6).
    by_hand = (0.5 * 0.8 + 0.1 * 0.7 + 0.1 * 0.6) / WORLD.true_hypervolume(PAIR, "test")
    assert pama.per_seed["share"][0] == pytest.approx(by_hand)
    assert pama.bill["prompts"] == 3 * BILL["prompts"]
    assert pama.bill["peak_memory_bytes"] == BILL["peak_memory_bytes"]
    assert {"igd_plus", "epsilon", "spacing", "regret"} <= set(pama.measures)
    # Groups meet the baseline's group of the same preference, fronts meet whole.
    assert {(t.group, t.baseline) for t in found.tests if t.measure == "share"} == {
        (f"pama {a}:{b}", f"linear {a}:{b}") for a, b in (("0.2", "0.8"), ("0.5", "0.5"), ("0.8", "0.2"))
    }
    front = next(test for test in found.tests if test.measure == "front share")
    assert (front.group, front.baseline) == ("pama", "linear")
    assert front.difference.mean > 0


def test_a_front_with_missing_runs_is_measured_over_whole_seeds_only(tmp_path):
    write_sweeps(tmp_path)
    (tmp_path / "pama-0.2-1" / "result.json").unlink()
    found = compare(load_runs([tmp_path]))
    assert found.fronts[1].seeds == (0, 2)
    for seed in (0, 2):
        (tmp_path / f"pama-0.5-{seed}" / "result.json").unlink()
    found = compare(load_runs([tmp_path]))
    assert found.fronts[1].seeds == ()
    assert any("No seed of pama has all of its 3 preferences" in warning for warning in found.warnings)


def test_single_responses_are_kept_apart_from_policies(tmp_path):
    write_two_solvers(tmp_path, seeds=[0])
    rows = [{"gold/helpful": h, "gold/concise": c} for h, c in ((1.0, 0.5), (0.5, 1.0), (0.5, 0.5), (1.0, 0.5))]
    record = load_runs([tmp_path / "pama-0"])[0]
    lines = [{"step": 3, "split": "test", **row} for row in rows] + [
        {"step": 2, "gold/helpful": 9.0, "gold/concise": 9.0}
    ]
    (record.folder / "generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    linear, pama = compare(load_runs([tmp_path])).groups
    assert linear.responses == {}
    assert pama.responses["hypervolume"].mean == pytest.approx(0.75)
    assert pama.responses["nondominated"].mean == 2
    assert pama.measures["share"].mean == pytest.approx(WORLD.hypervolume_share([0.62, 0.70], PAIR, "test"))


def test_a_soup_is_a_front_of_its_own_with_its_experts_bill(tmp_path):
    write_two_solvers(tmp_path)
    expert = write_run(
        tmp_path / "expert", "solver=linear", "objectives=[helpful]", after={"helpful": 0.9}
    ).read_config()
    points = [
        {
            "preference": {"helpful": share, "concise": 1 - share},
            "objectives": {n: {"gold": v, "proxy": v} for n, v in point.items()},
        }
        for share, point in ((0.0, {"helpful": 0.1, "concise": 0.9}), (1.0, {"helpful": 0.8, "concise": 0.4}))
    ]
    both = load_runs([tmp_path / "pama-0"])[0].config
    config = {**expert, "stage": {"name": "soup"}, "objectives": both["objectives"]}
    bill = {key: 2 * value for key, value in BILL.items()}
    write_run(
        tmp_path / "soup", "stage=soup", after={"helpful": 0.5, "concise": 0.6}, points=points, config=config, bill=bill
    )
    found = compare([run for run in load_runs([tmp_path]) if run.name != "expert"])
    soup = next(front for front in found.fronts if front.family == "soup")
    assert soup.points == ((0.1, 0.9), (0.8, 0.4))
    assert soup.bill["prompts"] == 2 * BILL["prompts"]
    assert found.is_controlled


CALIBRATION = {
    "helpful": {"gold": None, "proxy": {"mean": 1.0, "deviation": 0.5}},
    "concise": {"gold": None, "proxy": {"mean": 1.0, "deviation": 0.25}},
}


def test_without_a_true_front_points_are_measured_in_calibrated_units(tmp_path):
    text = ["objectives.helpful.direction=minimize"]  # the world has no front of less helpfulness
    for seed in (0, 1):
        write_run(
            tmp_path / str(seed),
            f"seed={seed}",
            *text,
            after={"helpful": 0.5, "concise": 0.5},
            gold=False,
            calibration=CALIBRATION,
        )
    found = compare(load_runs([tmp_path]))
    assert (found.kind, found.yardstick) == ("proxy", "calibration")
    (group,) = found.groups
    # Proxy rewards are 1.5: one deviation above helpful's mean, two above concise's; the corner is two below.
    assert group.measures["hypervolume"].mean == pytest.approx(3.0 * 4.0)
    assert set(group.measures) == {"hypervolume"}
    # None of them has gold rewards: there is nothing to warn of.
    assert not any("no gold rewards" in warning for warning in found.warnings)


def test_one_run_with_gold_rewards_and_one_without_are_compared_by_what_training_saw(tmp_path):
    write_run(tmp_path / "gold", "seed=0", after={"helpful": 0.5, "concise": 0.5}, calibration=CALIBRATION)
    write_run(tmp_path / "none", "seed=1", after={"helpful": 0.5, "concise": 0.5}, gold=False, calibration=CALIBRATION)
    found = compare(load_runs([tmp_path]))
    assert found.kind == "proxy"
    assert any("no gold rewards" in warning for warning in found.warnings)


def test_files_hold_the_same_numbers_and_pictures_are_drawn(tmp_path):
    write_sweeps(tmp_path / "runs")
    write_run(tmp_path / "runs" / "failed", state="failed")
    found = compare(load_runs([tmp_path / "runs"]))
    write(found, tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content == json.loads(json.dumps(as_dict(found)))
    assert len(content["groups"]) == 6
    assert len(run_rows(found)) == 18
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 19
    table = (tmp_path / "comparison.md").read_text()
    assert "| pama 0.2:0.8 | 3 | 0.400 → 0.510" in table
    assert "> Left out, without a result: 1 failed." in table
    assert [path.name for path in draw(found, tmp_path)] == ["operating_points.png", "attainment.png"]


@pytest.mark.parametrize(
    "names", [["helpful"], ["helpful", "concise", "harmless"], ["helpful", "concise", "harmless", "humor", "polite"]]
)
def test_any_number_of_objectives_is_compared_and_drawn(names, tmp_path):
    for seed in (0, 1):
        record = write_run(
            tmp_path / str(seed),
            f"objectives=[{','.join(names)}]",
            "solver=linear",
            f"seed={seed}",
            after=dict.fromkeys(names, 0.5 + 0.1 * seed),
        )
        record.log_metrics(1, {"solver/stationarity_residual": 0.5, "solver/cosine/a~b": 0.1})
        record.log_metrics(11, {"solver/stationarity_residual": 0.2 + seed, "solver/cosine/a~b": 0.3})
    found = compare(load_runs([tmp_path]))
    assert found.groups[0].measures["share"].mean > 0
    drawn = [path.name for path in draw(found, tmp_path)]
    assert drawn == (["gradients.png"] if len(names) == 1 else ["operating_points.png", "gradients.png"])
