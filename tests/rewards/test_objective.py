import pytest
import torch

import tiny
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_classifier
from pama_exp.rewards.classifier import ClassifierScorer
from pama_exp.rewards.function import FunctionScorer
from pama_exp.rewards.gold import GoldScorer
from pama_exp.rewards.objective import Objective, score_all
from pama_exp.types import PromptBatch
from pama_exp.world import FactWorld


class Length:
    """Characters, times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def score(self, prompts, responses):
        return torch.tensor([self.factor * len(response) for response in responses])


RESPONSES = ["a", "bb", "", "dddd"]


def test_higher_is_always_better_inside():
    up = Objective("up", Length(), gold=Length(2.0))
    down = Objective("down", Length(), direction="minimize", gold=Length(2.0))
    assert up.scores(tiny.prompts(), RESPONSES).tolist() == [1, 2, 0, 4]
    assert down.scores(tiny.prompts(), RESPONSES).tolist() == [-1, -2, 0, -4]
    assert up.gold_scores(tiny.prompts(), RESPONSES).tolist() == [2, 4, 0, 8]
    assert down.gold_scores(tiny.prompts(), RESPONSES).tolist() == [-2, -4, 0, -8]


def test_all_objectives_are_scored_in_their_order():
    objectives = [
        Objective("one", Length()),
        Objective("ten", Length(10.0)),
        Objective("less", Length(), direction="minimize"),
    ]
    scores = score_all(objectives, tiny.prompts(), RESPONSES)
    assert scores.tolist() == [[1, 2, 0, 4], [10, 20, 0, 40], [-1, -2, 0, -4]]


def test_a_bad_score_names_its_objective_and_says_if_it_was_the_truth():
    broken = Objective("broken", Length(), gold=Length(float("nan")))
    with pytest.raises(UserError, match=r"'broken \(gold\)' returned nan for response 0"):
        broken.gold_scores(tiny.prompts(), RESPONSES)
    with pytest.raises(UserError, match="'broken' returned inf"):
        score_all([Objective("broken", Length(float("inf")))], tiny.prompts(), ["a", "b", "c", "d"])


def test_gold_is_the_worlds_own_program():
    world = FactWorld(num_entities=2)
    prompts, responses = (list(texts) for texts in zip(*world.demonstrations(40, 0), strict=True))
    batch = PromptBatch(torch.zeros(40, 1, dtype=torch.long), torch.ones(40, 1, dtype=torch.bool), prompts)
    for name in world.objectives:
        scores = GoldScorer(world, name).score(batch, responses)
        assert scores.tolist() == pytest.approx(world.gold(name, prompts, responses))
        assert len(set(scores.tolist())) > 1


def test_a_classifier_moves_to_where_it_is_to_compute_and_a_function_stays(tmp_path):
    classifier = ClassifierScorer(build_classifier(tiny.language_model(), tiny.tokenizer()), tiny.tokenizer())
    Objective(name="one", scorer=classifier).to(torch.device("meta"))
    assert {parameter.device.type for parameter in classifier.model.parameters()} == {"meta"}
    Objective(name="two", scorer=FunctionScorer("folders:share_of_vowels")).to(torch.device("meta"))
