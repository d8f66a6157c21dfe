"""What was trained and scored elsewhere stands beside this project's own runs."""

import json

import pytest

from pama_exp import compare, load_runs
from pama_exp.comparison.importing import import_run
from pama_exp.errors import UserError
from pama_exp.report import write_report
from pama_exp.runs import main
from records import write_run

BEFORE = {"helpful": [0.0, 2.0], "concise": [1.0, 3.0]}


def rows(scores):
    return "".join(
        json.dumps({"prompt": f"p{i}", "response": f"r{i}"} | {name: values[i] for name, values in scores.items()})
        + "\n"
        for i in range(2)
    )


def foreign(folder, described="solver: trl-pama\nseed: 3\nsteps: 20\n", after=None, before=BEFORE, history=None):
    folder.mkdir(parents=True)
    (folder / "imported.yaml").write_text(described)
    (folder / "generations.jsonl").write_text(rows(after or {"helpful": [3.0, 5.0], "concise": [2.0, 4.0]}))
    if before is not None:
        (folder / "before.jsonl").write_text(rows(before))
    if history is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder


def test_the_record_has_means_units_generations_and_curves(tmp_path):
    history = [{"step": 5, "rewards/helpful/mean": 1.5, "rewards/concise/mean": 2.5, "loss": 0.1}, {"step": 20, "x": 1}]
    record = import_run(foreign(tmp_path / "from", history=history), tmp_path / "run")
    (run,) = load_runs([tmp_path / "run"])
    assert (run.status, run.stage, run.solver, run.seed) == ("complete", "imported", "trl-pama", 3)
    assert run.objectives == ("helpful", "concise")
    assert run.result["objectives"]["helpful"] == {
        "before": {"gold": None, "proxy": 1.0},
        "after": {"gold": None, "proxy": 4.0},
    }
    assert run.result["calibration"]["concise"]["proxy"] == {"mean": 2.0, "deviation": 1.0}
    assert [row["response"] for row in record.read_generations()] == ["r0", "r1"]
    assert {"step": 5, "reward/helpful/mean": 1.5, "reward/concise/mean": 2.5} in record.read_metrics()


def test_imported_runs_and_own_ones_stand_in_one_comparison_and_on_one_page(tmp_path):
    for solver, at in (("trl-pama", 3.0), ("trl-gdpo", 6.0)):
        after = {"helpful": [at, at], "concise": [2.0, 4.0]}
        described = f"solver: {solver}\nseed: 0\npolicy: {tmp_path / solver / 'policy'}\n"
        import_run(foreign(tmp_path / solver, described, after), tmp_path / "runs" / solver)
    write_run(tmp_path / "runs" / "own", "solver=linear", after={"concise": 3.0, "helpful": 4.0}, gold=False)
    comparison = compare(load_runs([tmp_path / "runs"]))
    found = {group.solver: group.rewards["helpful"]["proxy"]["after"].mean for group in comparison.groups}
    assert found == {"trl-pama": 3.0, "trl-gdpo": 6.0, "linear": 5.0}
    assert not any(str(tmp_path) in group.label for group in comparison.groups)
    page = write_report([tmp_path / "runs"], tmp_path / "report").read_text()
    assert "trl-pama" in page
    assert "trl-gdpo" in page


def test_the_command_says_where_the_record_is_and_refuses_a_second_time(tmp_path, capsys):
    words = ["import", str(foreign(tmp_path / "from")), str(tmp_path / "run")]
    assert main(words) == 0
    assert str(tmp_path / "run") in capsys.readouterr().out
    assert main(words) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("described", "after", "says"),
    [
        ("seed: 3", None, "names no solver"),
        ("solver: a\nseeds: 3", None, "unknown key 'seeds'"),
        ("solver: a\nseed: x", None, "seed"),
        ("solver: a\nobjectives: {helpful: -1}", None, "not negative"),
        ("solver: a\nobjectives: {witty: 1}", None, "line 1: the score 'witty' is null"),
        ("solver: a", {"helpful": [1.0, float("nan")]}, "line 2: the score 'helpful' is NaN"),
        ("solver: a", {"helpful": ["good", "bad"]}, "the score 'helpful' is"),
        ("[", None, "cannot be read"),
        ("[" * 20000, None, "cannot be read"),
        ("solver: a\nseed: 1\nsolver: b", None, "'solver' is there twice"),
        ("solver: a\nobjectives: [helpful]", None, "objectives=.*helpful"),
        ("solver: a\nobjectives: 3", None, "objectives=3"),
        ("solver: a\nobjectives: null", None, "objectives=null"),
        ("solver: a\nobjectives: {helpful: true}", None, "objectives="),
        ("solver: a\nsettings: 3", None, "settings=3"),
        ("solver: 3", None, "solver=3"),
        ("solver: a\nsteps: 1e30", None, "steps=1e"),
        ("solver: a", {"helpful": [1.0, 10**400]}, "line 2: the score 'helpful' is 1000"),
        ("solver: a", {"helpful": [1.0, True]}, "line 2: the score 'helpful' is true"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_line(tmp_path, described, after, says):
    with pytest.raises(UserError, match=says):
        import_run(foreign(tmp_path / "from", described, after, before=None), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("line", ["[" * 100_000, "3", "null", '{"prompt": "a", "prompt": '])
def test_a_line_that_is_no_row_is_told_with_its_number(tmp_path, line):
    folder = foreign(tmp_path / "from")
    with (folder / "generations.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="line 3 is no JSON mapping"):
        import_run(folder, tmp_path / "run")


def test_a_record_is_made_in_no_folder_of_the_users_own(tmp_path, monkeypatch):
    thesis = tmp_path / "thesis"
    (thesis / "work").mkdir(parents=True)
    (thesis / "work" / "chapter.tex").write_text("x")
    (thesis / "link").symlink_to(thesis / "work")
    (thesis / "file").write_text("x")
    monkeypatch.setenv("HOME", str(thesis))
    monkeypatch.chdir(thesis / "work")
    folder = foreign(tmp_path / "from")
    write_run(tmp_path / "begun", after=None, state="interrupted")
    for output in (thesis, thesis / "work", thesis / "link", thesis / "file", "", ".", "~", tmp_path / "begun"):
        with pytest.raises(UserError):
            import_run(folder, output)
    assert sorted(path.name for path in thesis.rglob("*")) == ["chapter.tex", "file", "link", "work"]


def test_a_folder_without_generations_says_what_is_wanted(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "imported.yaml").write_text("solver: a")
    with pytest.raises(UserError, match="cannot be read"):
        import_run(tmp_path / "from", tmp_path / "run")
