"""The examples compose, and their rewards point the way that they say."""

import importlib.util
from argparse import Namespace
from pathlib import Path

import pytest
from benchmarks.real_text import __main__ as real_text

import pama_exp
import tiny
from pama_exp.assembly.method import build_estimator, build_solver

FOLDER = Path(__file__).parents[1] / "examples" / "real_text"
FIVE = ("positive", "clean", "brief", "relevant", "readability")


@pytest.fixture(scope="module")
def rewards():
    spec = importlib.util.spec_from_file_location("rewards_of_the_example", FOLDER / "rewards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("reward", "package", "better", "worse"),
    [
        ("sentiment", "vaderSentiment", "What a lovely, happy day!", "What a horrible, sad day."),
        ("clean", "profanity_check", "You are a good friend.", "You are a fucking bitch."),
        ("clean", "profanity_check", "", "You are a fucking bitch."),
        ("relevance", "sklearn", "Cats chase mice at night.", "Stocks fell by a tenth."),
    ],
)
def test_the_better_answer_has_the_higher_reward(rewards, reward, package, better, worse):
    pytest.importorskip(package)
    high, low = getattr(rewards, reward)(
        prompts=["Tell me of cats and mice."] * 2, completions=[better, worse], kind=["", ""]
    )
    assert high > low + 0.2


def test_brevity_counts_the_policys_tokens_and_not_words(rewards, tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    scorer = rewards.Brevity(str(tmp_path), limit=4)
    assert scorer.score(None, ["", "a", "a b", "a b c d", "a b c d e"]).tolist() == [1.0, 0.75, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("objective", FIVE)
def test_every_objective_of_the_five_can_be_chosen(objective):
    config = pama_exp.configure(
        "experiment=real_text",
        "model.path=MODEL",
        "data.path=FILE",
        f"objectives=[{objective},positive]" if objective != "positive" else "objectives=[positive]",
        config_dir=FOLDER / "conf",
    )
    node = config.objectives[objective].scorers
    assert ("text" in node) or ("any" in node)
    if objective == "brief":
        assert node["text"]["tokenizer"] == "MODEL"
        assert node["text"]["limit"] == config.rollout.sampling.max_new_tokens


def test_the_methods_of_the_study_on_it_differ_in_the_method_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(real_text, "RESULTS", tmp_path / "none.csv")
    given = Namespace(
        model=tmp_path,
        prompts=tmp_path,
        runs=tmp_path,
        objectives="positive,readability",
        seeds=2,
        workers=1,
        overrides=[],
    )
    planned = real_text.jobs(given)
    assert list(planned)[:4] == ["pama-s0", "linear-s0", "mgda-ub-s0", "gdpo-s0"]
    configs = {name: pama_exp.configure(*words, config_dir=FOLDER / "conf") for name, words in planned.items()}
    assert [config.seed for config in configs.values()] == [0] * 4 + [1] * 4
    assert len({str(config.solver) for config in configs.values()}) == len(real_text.METHODS)
    assert len({str(config.training) for config in configs.values()}) == 1
    for config in configs.values():
        build_solver(config, build_estimator(config.advantage))  # which refuses what is not defined together
    assert {config.advantage["_target_"].rpartition(".")[2] for n, config in configs.items() if "gdpo" in n} == {
        "Group"
    }
