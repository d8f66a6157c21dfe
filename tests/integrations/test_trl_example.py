"""The script of the documents trains, and what it leaves becomes a run's record."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("trl")

import tiny
from commands import ROOT, environment, run_here
from pama_exp import load_runs
from pama_exp.runs import main


@pytest.mark.slow("a process")
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("brief,nothing", ["rewards.py has no function 'nothing'"]),
        ("brief,positive", ["positive needs a package", "vaderSentiment", "pip install"]),
    ],
)
def test_a_reward_that_cannot_be_used_is_named_before_the_model_is_read(broken, said, tmp_path):
    (tmp_path / "vaderSentiment.py").write_text("raise ImportError('No module named vaderSentiment')")
    script = str(ROOT / "examples" / "trl" / "train.py")
    words = [sys.executable, script, str(tmp_path / "none"), str(tmp_path / "none.jsonl"), str(tmp_path / "out")]
    there = environment(PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    done = subprocess.run(
        [*words, f"--rewards={broken}"], env=there, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in said)


@pytest.mark.slow("trains by the script, in a process")
def test_the_script_trains_and_its_folder_is_imported(tmp_path):
    model, prompts = tmp_path / "model", tmp_path / "prompts.jsonl"
    tiny.language_model("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    prompts.write_text("".join(json.dumps({"prompt": f"{a} {b}"}) + "\n" for a in "abcdefgh" for b in "ijklmnop"))
    words = [
        sys.executable,
        str(ROOT / "examples" / "trl" / "train.py"),
        str(model),
        str(prompts),
        str(tmp_path / "out"),
    ]
    words += ["--solver=gdpo", "--steps=2", "--batch=8", "--micro=4", "--tokens=5", "--unseen=4", "--weights=1,3"]
    done = subprocess.run(
        words, env=environment(PYTHONPATH=str(ROOT / "src")), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "python -m pama_exp.runs import" in done.stdout
    assert (tmp_path / "out" / "checkpoint-1" / "solver_state.pt").exists()
    assert main(["import", str(tmp_path / "out"), str(tmp_path / "run")]) == 0
    (run,) = load_runs([tmp_path / "run"])
    assert run.solver == "trl-gdpo"
    assert run.preference == {"brief": 0.25, "varied": 0.75}
    assert [row["step"] for row in run.metrics if "reward/brief/mean" in row] == [1, 2]
    assert len(run.generations) == 4
    # The policy that TRL saved is answered and scored here, on any file of prompts and by any objectives.
    words = ["stage=evaluate", f"model.path={tmp_path / 'out' / 'policy'}", "data=file", f"data.path={prompts}"]
    words += ["data.splits={train: 0.4, validation: 0.3, test: 0.3}", "rollout.sampling.max_new_tokens=5"]
    words += ["objectives=[length,readability]", "evaluate.prompts=4"]
    found = run_here(*words, output=tmp_path / "evaluated", cache=tmp_path / "cache").read_result()
    assert set(found["objectives"]) == {"length", "readability"}
    assert isinstance(found["objectives"]["length"]["after"]["proxy"], float)
