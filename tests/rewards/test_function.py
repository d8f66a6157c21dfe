import sys
from dataclasses import replace
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


@pytest.mark.parametrize("value", [None, [None] * 4, ["a", "b", "c", "d"], [[1.0], [1.0, 2.0]], object(), iter([1.0])])
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


RAISING = {
    "raise ValueError('two\\nlines')": "ValueError: two (",
    "return 1 / 0": "ZeroDivisionError: division by zero (",
    "import sys; sys.exit('enough')": "SystemExit: enough (",
    "import json; return json.loads('{')": "JSONDecodeError: ",  # raised in Python's own files, called from this one
    "raise RuntimeError": "RuntimeError (",
}


@pytest.mark.parametrize("body", RAISING)
def test_what_a_function_raises_names_objective_function_and_line(body, tmp_path, monkeypatch):
    path = tmp_path / "raises.py"
    path.write_text(f"def reward(prompts, completions, **columns):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "raises", raising=False)
    with pytest.raises(UserError) as caught:
        checked_score("brevity", FunctionScorer("raises:reward"), tiny.prompts(), RESPONSES)
    assert caught.value.message.startswith(
        f"Objective 'brevity': The reward function 'raises:reward' raised {RAISING[body]}"
    )
    assert caught.value.message.endswith(f"({path}:2).")
    assert "\n" not in caught.value.message


def test_a_scorer_of_ones_own_that_raises_is_named_and_an_interruption_is_none(my_rewards):
    class Own:
        def __init__(self, error):
            self.error = error

        def score(self, prompts, responses):
            raise self.error

    with pytest.raises(UserError, match=r"'brevity': The scorer Own raised KeyError: 'x' \(.*test_function.py:\d+\)"):
        checked_score("brevity", Own(KeyError("x")), tiny.prompts(), RESPONSES)
    with pytest.raises(KeyboardInterrupt):
        checked_score("brevity", Own(KeyboardInterrupt()), tiny.prompts(), RESPONSES)


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1 / 0", "ZeroDivisionError"), ("def", "SyntaxError"), ("import sys; sys.exit(3)", "SystemExit: 3")],
)
def test_a_module_that_raises_when_imported_names_its_line(text, said, tmp_path, monkeypatch):
    path = tmp_path / "broken_module.py"
    path.write_text(f"\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        FunctionScorer("broken_module:reward")
    assert said in caught.value.message
    assert f"{path}:2" in caught.value.message


@pytest.mark.parametrize("column", ["prompts", "completions"])
def test_a_column_named_as_an_argument_gives_way_to_it(my_rewards, column):
    my_rewards.reward = lambda prompts, completions, **rest: [len(p) + len(rest) for p in completions]
    asked = replace(tiny.prompts(), columns={column: ["other"] * 4, "row": [0, 1, 2, 3]})
    assert FunctionScorer("my_rewards:reward").score(asked, RESPONSES).tolist() == [2.0, 4.0, 6.0, 8.0]


def test_a_function_is_given_what_it_has_parameters_for(my_rewards):
    my_rewards.reward = lambda completions, row: row
    assert FunctionScorer("my_rewards:reward").score(tiny.prompts(), RESPONSES).tolist() == [0.0, 1.0, 2.0, 3.0]
    my_rewards.reward = lambda completions, solution: solution
    with pytest.raises(UserError, match="asks for 'solution'"):
        FunctionScorer("my_rewards:reward").score(tiny.prompts(), RESPONSES)
