import sys
from types import ModuleType

import pytest
import torch

import tiny
from pama_exp.errors import UserError
from pama_exp.rewards.function import FunctionScorer
from pama_exp.rewards.scorer import checked_score

RESPONSES = ["a", "b b", "c c c", "d d d d"]


@pytest.fixture
def my_rewards(monkeypatch):
    """A module of the user's, importable as `my_rewards`."""
    module = ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


def returning(value):
    return lambda prompts, completions, **columns: value


def test_a_function_gets_prompts_completions_and_columns_as_in_trl(my_rewards):
    seen = {}

    def reward(prompts, completions, row, **rest):
        seen.update(prompts=prompts, completions=completions, row=row, rest=rest)
        return [float(len(text)) for text in completions]

    my_rewards.reward = reward
    scores = FunctionScorer("my_rewards:reward").score(tiny.prompts(), RESPONSES)
    assert scores.tolist() == [1.0, 3.0, 5.0, 7.0]
    assert seen == {"prompts": list(tiny.prompts().texts), "completions": RESPONSES, "row": [0, 1, 2, 3], "rest": {}}


@pytest.mark.parametrize("value", [[1, 2, 3, 4], torch.tensor([1.0, 2.0, 3.0, 4.0]), (True, 2.0, 3, 4)])
def test_any_sequence_of_numbers_will_do(my_rewards, value):
    my_rewards.reward = returning(value)
    assert FunctionScorer("my_rewards:reward").score(tiny.prompts(), RESPONSES).tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("value", [None, [None] * 4, ["a", "b", "c", "d"], [[1.0], [1.0, 2.0]]])
def test_anything_but_numbers_names_the_function(my_rewards, value):
    my_rewards.reward = returning(value)
    with pytest.raises(UserError, match="my_rewards:reward"):
        FunctionScorer("my_rewards:reward").score(tiny.prompts(), RESPONSES)


def test_too_few_scores_name_the_objective(my_rewards):
    my_rewards.reward = returning([1.0])
    with pytest.raises(UserError, match=r"'brevity' returned \[1\] scores for 4 responses"):
        checked_score("brevity", FunctionScorer("my_rewards:reward"), tiny.prompts(), RESPONSES)


@pytest.mark.parametrize(
    "source", ["my_rewards:missing", "my_rewards", "no_such_module:reward", ":reward", "", "my_rewards:number"]
)
def test_a_function_that_cannot_be_had_is_named(my_rewards, source):
    my_rewards.number = 3
    with pytest.raises(UserError) as caught:
        FunctionScorer(source)
    assert f"'{source}'" in caught.value.message
    assert "module:function" in caught.value.hint
