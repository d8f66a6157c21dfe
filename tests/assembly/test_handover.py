"""A run's objectives and solver as scripts for TRL and verl."""

import os
import runpy
import subprocess

import pytest
import yaml

from commands import environment
from pama_exp.assembly.handover import reward_function
from pama_exp.errors import UserError
from pama_exp.runs import main
from pama_exp.solvers import PAMA
from records import write_run

ON_TEXT = ["model=hf", "model.path=POLICY", "data=file", "data.path=PROMPTS", "objectives=[length,readability]"]
SHORT = ["objectives.length.direction=minimize", "objectives.length.scorers.any.scale=10.0"]


def exported(tmp_path, kind, *overrides, solver="pama"):
    run = write_run(tmp_path / "run", f"solver={solver}", *ON_TEXT, *SHORT, *overrides, after=None, state="interrupted")
    assert main(["export", kind, str(run.folder), str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_the_script_for_trl_has_the_runs_objectives_and_solver(tmp_path):
    pytest.importorskip("trl")
    out = exported(tmp_path, "trl", "solver.granularity=sequence", "objectives.length.weight=3")
    made = runpy.run_path(str(out / "train.py"))
    solver, objectives = made["solver"], made["objectives"]
    assert isinstance(solver, PAMA)
    assert solver.granularity == "sequence"
    assert solver.weights.tolist() == pytest.approx([0.75, 0.25])
    assert [one.__name__ for one in objectives] == ["length", "readability"]
    assert objectives[0](prompts=["q", "q"], completions=["12345", "a" * 20]) == [-0.5, -2.0]
    assert "max_steps=60" in (out / "train.py").read_text()


def test_the_script_for_verl_gives_the_same_scores_and_settings(tmp_path):
    out = exported(tmp_path, "verl", "training.steps=7", "advantage=group", "advantage.group_size=8")
    score = runpy.run_path(str(out / "rewards.py"))["compute_score"]
    found = score(data_source="x", solution_str="12345", ground_truth=None)
    assert found["length"] == -0.5
    assert found["score"] == pytest.approx(found["length"] + found["readability"])
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    python.chmod(0o755)
    given = {"TRAIN": "a.parquet", "TEST": "b.parquet", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(out / "train.sh"), "trainer.nnodes=2"], env=environment(**given), check=True)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:3] == ["-m", "verl.trainer.main_ppo", "actor_rollout_ref.model.path=POLICY"]
    assert {"algorithm.adv_estimator=pama", "+algorithm.gdpo_reward_keys=[length,readability]"} <= set(words)
    assert {"actor_rollout_ref.rollout.n=8", "data.train_batch_size=8", "trainer.total_training_steps=7"} <= set(words)
    assert '+algorithm.solver.granularity="token"' in words
    assert words[-1] == "trainer.nnodes=2"


@pytest.mark.parametrize(
    ("kind", "overrides", "says"),
    [
        ("trl", [*ON_TEXT, "solver=mgda"], "MGDA weighs losses by their gradients"),
        ("nemo", ON_TEXT, "no export to 'nemo'"),
        ("trl", ["objectives=[helpful]"], "the testbed alone has"),
    ],
)
def test_what_cannot_go_there_is_told(tmp_path, capsys, kind, overrides, says):
    run = write_run(tmp_path / "run", *overrides, after=None, state="interrupted")
    assert main(["export", kind, str(run.folder), str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


OTHERS = {
    "a command": ({"_target_": "os.system", "command": "touch touched"}, "os.system"),
    "a class": ({"_target_": "subprocess.Popen", "args": ["touch", "touched"]}, "subprocess.Popen"),
    "a function": ({"function": "posixpath:commonprefix"}, "posixpath:commonprefix"),
    "an address": ({"_target_": "pama_exp.rewards.http.HttpScorer", "url": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
    "pickles": (
        {"_target_": "pama_exp.rewards.classifier.ClassifierScorer", "path": "judge", "allow_pickle": True},
        "allow_pickle",
    ),
}


@pytest.mark.parametrize("kind", ["trl", "verl"])
@pytest.mark.parametrize("other", OTHERS)
def test_code_of_a_record_is_written_only_if_the_user_names_it(other, kind, tmp_path, capsys):
    node, name = OTHERS[other]
    run = write_run(tmp_path / "run", "solver=pama", *ON_TEXT, *SHORT, after=None, state="interrupted")
    path = run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["objectives"]["length"]["scorers"] = {"any": node}
    path.write_text(path.read_text().splitlines()[0] + "\n" + yaml.safe_dump(config))
    for words in ([], ["--code", "mine:own", f"{name}x"]):
        assert main(["export", kind, str(run.folder), str(tmp_path / "out"), *words]) == 2
        err = capsys.readouterr().err
        assert name in err
        assert "--code" in err
        assert len(err.splitlines()) == 2
        assert not (tmp_path / "out").exists()
    assert main(["export", kind, str(run.folder), str(tmp_path / "out"), "--code", "mine:own", name]) == 0
    assert name in "".join(file.read_text() for file in (tmp_path / "out").iterdir())


def test_code_is_named_for_an_export_alone(tmp_path, capsys):
    assert main(["show", str(tmp_path), "--code", "a:b"]) == 2
    assert "--code is for export alone" in capsys.readouterr().err


def test_an_export_writes_over_nothing(tmp_path, capsys):
    out = exported(tmp_path, "verl")
    assert main(["export", "verl", str(tmp_path / "run"), str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_and_no_link_is_followed(tmp_path, capsys):
    run = write_run(tmp_path / "run", "solver=pama", *ON_TEXT, *SHORT, after=None, state="interrupted")
    (tmp_path / "file").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.sh").symlink_to(tmp_path / "elsewhere")
    for folder, says in (("file", "cannot be written"), ("file/in", "cannot be written"), ("out", "there already")):
        assert main(["export", "verl", str(run.folder), str(tmp_path / folder)]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training", None),
        ("training", {"steps": 3}),
        ("training", [1]),
        ("rollout", None),
        ("model", 3),
        ("advantage", [None]),
        ("advantage", {"group_size": "four"}),
        ("objectives", {"length": {"scorers": 3}, "readability": {}}),
    ],
)
def test_a_record_that_lacks_what_a_script_says_is_told(key, value, tmp_path, capsys):
    run = write_run(tmp_path / "run", "solver=pama", *ON_TEXT, *SHORT, after=None, state="interrupted")
    path = run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(path.read_text().splitlines()[0] + "\n" + yaml.safe_dump(config | {key: value}))
    assert main(["export", "verl", str(run.folder), str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_a_record_of_others_cannot_put_words_into_a_script(tmp_path):
    run = write_run(tmp_path / "run", *ON_TEXT[:1], "model.path='a $(touch hacked)'", *ON_TEXT[2:], after=None)
    assert main(["export", "verl", str(run.folder), str(tmp_path / "out")]) == 0
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    python.chmod(0o755)
    given = {"TRAIN": "a", "TEST": "b", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(tmp_path / "out" / "train.sh")], env=environment(**given), check=True)
    assert "actor_rollout_ref.model.path=a $(touch hacked)" in (tmp_path / "words").read_text().splitlines()
    assert not list(tmp_path.rglob("hacked"))


def test_a_reward_function_keeps_its_scorers_complaints():
    with pytest.raises(UserError, match="not named"):
        reward_function("mine", {"function": None})
