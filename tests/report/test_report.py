"""What a report says of run folders: every state shown, objectives apart, tables and pictures beside the page."""

import csv
import json
import re

import pytest

from pama_exp.report.__main__ import main
from pama_exp.report.curves import curves_of
from pama_exp.report.gather import gather
from pama_exp.tracking.run_wandb import read_offline
from pama_exp.world import FactWorld
from synthetic import write_runs, write_whole


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root, output = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("report") / "made"
    write_runs(root, 4, solvers=("pama", "linear"))
    write_whole(root / "stopped", "solver=pama", "seed=2", state="interrupted", reach=0.5)
    failed = write_whole(root / "broken", "solver=mgda", state="failed", reach=0.0)
    failed.write_status("failed", 0, "no such file")
    torn = write_whole(root / "torn", "solver=mgda", "seed=1", state="running", reach=0.5)
    with (torn.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "reward/hel')
    assert main([str(root), "--output", str(output)]) == 0
    return output


SCORES = {f"{kind}/{name}": 1.0 for kind in ("gold", "proxy") for name in ("helpful", "concise")}


def embedded(folder):
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', (folder / "index.html").read_text())
    return json.loads(found[1])


def test_unfinished_runs_are_shown_as_what_they_are(report):
    runs = {run["name"]: run for run in embedded(report)["sections"][0]["runs"]}
    states = {name: runs[name]["status"] for name in ("pama-s0", "stopped", "broken", "torn")}
    assert states == {"pama-s0": "complete", "stopped": "interrupted", "broken": "failed", "torn": "dead"}
    assert runs["broken"]["detail"] == "no such file"
    assert runs["torn"]["step"] == 30  # the half line is not a step
    assert runs["stopped"]["after"] is None
    assert runs["stopped"]["group"] == "pama"  # where it belongs, though the comparison leaves it out
    assert "Left out, without a result: 1 dead, 1 failed, 1 interrupted." in embedded(report)["sections"][0]["warnings"]


def test_the_page_refers_to_nothing_outside_itself(report):
    text = (report / "index.html").read_text()
    outside = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]+)|url\(([^)]+)\)|@import|fetch\(|XMLHttpRequest""", text)
    assert [found[0] for found in outside if found[0]] == ["data:,", "#main"]
    assert set(re.findall(r"https?://[^\s\"'<\\]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_true_front_is_the_worlds_own(report):
    front = embedded(report)["sections"][0]["fronts"][0]
    world = FactWorld(num_entities=12, values_per_attribute=6)
    exact = world.true_front(["helpful", "concise"], "test")
    support = (exact.weights * exact.points).sum(1)
    for point in front["points"]:
        reached = (exact.weights @ point) / support
        assert reached.max() == pytest.approx(1.0, abs=1e-3)  # on the front, not inside


def test_pictures_and_tables_lie_beside_the_page(report):
    for name in ("points", "training-rewards", "gold-rewards", "kl", "proxy-gold", "weights", "binding-shares"):
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (report / f"{name}.svg").read_text()
    rows = list(csv.DictReader((report / "runs.csv").read_text().splitlines()))
    assert len(rows) == 7
    assert {row["status"] for row in rows} == {"complete", "interrupted", "failed", "dead"}
    curves = [r for r in csv.DictReader((report / "curves.csv").read_text().splitlines()) if r["name"] == "pama-s0"]
    assert [float(r["value"]) for r in curves if r["metric"] == "kl/response"][:2] == pytest.approx([0.05, 0.1])
    assert list(report.glob("table-gold-rewards*.csv"))
    assert (report / "comparison.csv").exists()


def test_text_that_looks_like_a_tag_stays_text(tmp_path):
    record = write_whole(tmp_path / "runs" / "one", "seed=0")
    record.log_generations(60, [{"split": "test", "prompt": "</script><b>", "response": "<!--", **SCORES}])
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert "</script><b>" in embedded(tmp_path / "out")["sections"][0]["prompts"]


def test_objectives_are_kept_apart_and_that_is_said(tmp_path):
    write_whole(tmp_path / "runs" / "one", "seed=0")
    write_whole(tmp_path / "runs" / "two", "objectives=[humor,polite,honest]")
    data, _ = gather([tmp_path / "runs"])
    assert [section["objectives"] for section in data["sections"]] == [
        ["helpful", "concise"],
        ["humor", "polite", "honest"],
    ]
    assert "2 sets of objectives" in data["notes"][0]
    assert [front["pair"] for front in data["sections"][1]["fronts"]] == [
        ["humor", "polite"], ["humor", "honest"], ["polite", "honest"],
    ]  # fmt: skip


def test_many_steps_become_few_points_with_the_same_mean(tmp_path):
    from pama_exp.comparison import load_runs

    write_whole(tmp_path / "one", "seed=0", steps=1000, every=500)
    curves = curves_of(load_runs([tmp_path]), ["helpful", "concise"], points=50)
    assert len(curves["steps"]) == 50
    assert curves["steps"][-1] == 1000
    kept = curves["series"][0]["kl/response"]
    assert sum(kept) / len(kept) == pytest.approx(0.05 * 500.5, rel=0.01)
    assert curves["series"][0]["kl/eval"] == pytest.approx([0.0, 25.0, 50.0])


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    write_whole(tmp_path / "runs" / "one", "seed=0")
    other = write_whole(tmp_path / "runs" / "two", "seed=1")
    (other.folder / "config.yaml").write_text("solver: {_target_: pama")
    notes = gather([tmp_path / "runs"])[0]["notes"]
    assert any("two" in note and "cannot be read" in note for note in notes)


def test_the_report_is_kept_in_wandb_where_that_is_asked_for(tmp_path):
    write_whole(tmp_path / "runs" / "one", "seed=0")
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--wandb", "p"]) == 0
    run = read_offline(tmp_path / "out")
    assert run["job_type"] == "report"
    assert [name.split("-")[0] for name in run["artifacts"]] == ["report"]


@pytest.mark.parametrize("case", ["missing", "empty", "only-sft"])
def test_nothing_to_report_is_two_lines_and_status_2(case, tmp_path, capsys):
    folder = tmp_path / case
    if case != "missing":
        folder.mkdir()
    if case == "only-sft":
        write_whole(folder / "sft", "stage=sft")
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert case in said or "sft" in said
    assert not (tmp_path / "out").exists()
