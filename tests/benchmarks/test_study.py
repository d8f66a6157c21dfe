"""The study: what it plans, that its workers run and resume, and that its page is rewritten around the reading."""

import json
import time
from collections import Counter

import pytest
from benchmarks.study.pages import filled, publish
from benchmarks.study.plan import OBJECTIVES, REWARDS, SEEDS, SOLVERS, Job, jobs
from benchmarks.study.work import work

from commands import ROOT
from records import write_run

FRONTS = ("linear", "linear-conditioned")
CALIBRATION = {
    name: {"gold": {"mean": 0.4, "deviation": 0.2}, "proxy": {"mean": 1.0, "deviation": 1.0}} for name in OBJECTIVES[5]
}


def test_every_solver_meets_every_other_on_everything():
    planned = jobs()
    assert len({job.name for job in planned}) == len({job.overrides for job in planned}) == len(planned)
    counts = Counter(job.block for job in planned)
    assert len(SOLVERS) >= 8
    assert len(SEEDS) == 8
    for count in (2, 3, 5):
        for reward in REWARDS:
            assert counts[f"{count}-{reward}"] == len(SOLVERS) * 8
    assert counts["conditioned"] == 8
    # A study that is cut short is one of fewer seeds, not of fewer solvers.
    assert [job.seed for job in planned] == sorted(job.seed for job in planned)


@pytest.mark.slow("whole runs in processes")
def test_workers_run_what_is_not_finished_and_report_what_failed(tmp_path, shared_cache, capfd):
    def job(name, *overrides):
        return Job(f"2-gold/{name}", ("debug=fast", "model=micro", "reward=gold", *overrides), "2-gold", 0)

    planned = [job("pama-s0"), job("wrong-s0", "training.clip=2.0"), job("linear-s0", "solver=linear")]
    extra = [f"cache_dir={shared_cache}"]
    failed = work(planned, tmp_path, extra, workers=1, deadline=time.time() + 600)
    assert list(failed) == ["2-gold/wrong-s0"]
    assert "training.clip=2.0" in failed["2-gold/wrong-s0"]
    kept = {path.name for path in (tmp_path / "2-gold" / "linear-s0").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "result.json"} <= kept
    assert not {"policy", "checkpoints"} & kept
    capfd.readouterr()
    assert work([planned[0], planned[2]], tmp_path, extra, workers=1, deadline=time.time() + 600) == {}
    assert "2 runs, 2 of them finished before" in capfd.readouterr().out


def test_no_run_is_started_after_the_deadline(tmp_path):
    late = work([Job("2-gold/late-s0", (), "2-gold", 0)], tmp_path, [], workers=1, deadline=0.0)
    assert "not finished" in late["2-gold/late-s0"]


@pytest.fixture
def studied(tmp_path):
    root = tmp_path / "runs"

    def write(name, *overrides, after):
        for seed in (0, 1):
            means = {objective: value + 0.01 * seed for objective, value in after.items()}
            record = write_run(
                root / f"{name}-s{seed}", *overrides, f"seed={seed}", after=means, calibration=CALIBRATION
            )
            for step in (1, 11, 21):
                row = {"solver/stationarity_residual": 1 / step, "solver/cosine/a~b": 0.5, "time/step": len(after) / 10}
                record.log_metrics(step, row)

    for solver, shift in (("pama", 0.2), ("linear", 0.0)):
        for block, names in (("2-gold", OBJECTIVES[2]), ("2-learned", OBJECTIVES[2]), ("5-gold", OBJECTIVES[5])):
            after = {name: 0.5 + shift * (1 if i else 0.5) for i, name in enumerate(names)}
            reward = block.partition("-")[2]
            write(
                f"{block}/{solver}",
                f"objectives=[{','.join(names)}]",
                f"solver={solver}",
                f"reward={reward}",
                after=after,
            )
        for share in (0.1, 0.9):
            weights = f"solver.weights=[{share},{1 - share:.1f}]"
            after = {"helpful": share, "concise": 0.9 - share / 2}
            write(f"preferences/{solver}-{share}", f"solver={solver}", weights, "reward=gold", after=after)
    for seed in (0, 1):  # one run, three points
        told = {0.0: (0.1, 0.95), 0.5: (0.5, 0.5), 1.0: (0.85, 0.3)}
        points = [
            {
                "preference": {"helpful": share, "concise": 1 - share},
                "objectives": {"helpful": {"gold": x, "proxy": x}, "concise": {"gold": y, "proxy": y}},
            }
            for share, (x, y) in told.items()
        ]
        write_run(
            root / f"conditioned/linear-s{seed}",
            "solver=linear",
            "reward=gold",
            "conditioning=embedding",
            f"seed={seed}",
            after={"helpful": 0.5, "concise": 0.5},
            calibration=CALIBRATION,
            points=points,
        )
    write("ablation-2/pama-batch", "solver.granularity=batch", "reward=gold", after={"helpful": 0.2, "concise": 0.9})
    return root


@pytest.mark.slow("draws every picture of the study")
def test_the_page_is_rewritten_around_the_reading(studied, tmp_path):
    document = tmp_path / "study.md"
    document.write_text((ROOT / "docs" / "study.md").read_text() + "\nA hand-written reading.\n")
    publish(studied, tmp_path / "results", document, "python -m benchmarks.study")
    text = document.read_text()
    assert "A hand-written reading." in text
    # Helpful is 0.6 and 0.61, its least gain (0.6 − 0.4) / 0.2 and more.
    row = next(line for line in text.splitlines() if line.startswith("| pama | 0.60 | 0.70 |"))
    assert "| 1.02 |" in row  # two seeds: no interval
    assert "▲" in row
    assert "| pama | 1.000 → 0.048 | 0.500 → 0.500 |" in text
    assert "| pama | 0.200 | 0.500 | 2.50 |" in text
    assert "| pama granularity=batch | 2 | 0.2" in text
    # A sweep of three preferences is billed for three runs, a policy that is told its preference for one.
    sweep, told = (next(row for row in text.splitlines() if row.startswith(f"| {name} | 3 | ")) for name in FRONTS)
    assert [sweep.split(" | ")[-2], told.split(" | ")[-2]] == ["300", "100"]
    assert "Not controlled" not in text
    assert (tmp_path / "results" / "2-gold-gradients.png").exists()
    content = json.loads((tmp_path / "results" / "5-gold.json").read_text())
    assert len(content["groups"]) == 2
    # Data can be published: no file names the machine's folders.
    for path in (tmp_path / "results").iterdir():
        if path.suffix != ".png":
            assert str(tmp_path) not in path.read_text(), path
    publish(studied, tmp_path / "results", document, "python -m benchmarks.study")
    assert document.read_text() == text


def test_only_what_stands_between_markers_is_replaced():
    text = "a\n<!-- study:x -->\nold\n<!-- /study:x -->\nb\n<!-- study:y -->\nkept\n<!-- /study:y -->\n"
    assert filled(text, {"x": "new"}) == text.replace("old", "new")
