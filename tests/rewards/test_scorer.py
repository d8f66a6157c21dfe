import pytest
import torch

import tiny
from pama_exp.errors import UserError
from pama_exp.rewards.scorer import checked_score

RESPONSES = ["first", "second", "x" * 500, "fourth"]


class Returns:
    """A scorer that returns what it was given."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, responses):
        return self.scores


def check(scores):
    return checked_score("kind", Returns(scores), tiny.prompts(), RESPONSES)


def test_scores_become_plain_single_precision():
    scores = check(torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=torch.float64, requires_grad=True))
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert scores.device.type == "cpu"
    assert scores.tolist() == [1.0, 2.0, -3.0, 0.5]


@pytest.mark.parametrize("shape", [(3,), (5,), (0,), (4, 1), ()])
def test_the_wrong_number_of_scores_names_the_scorer(shape):
    with pytest.raises(UserError, match=r"'kind' returned .* scores for 4 responses"):
        check(torch.zeros(shape))


# 1e300 is finite where it is computed, and infinite as the float32 that training uses.
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_score_that_is_not_finite_names_the_scorer_and_the_sample(value):
    with pytest.raises(UserError) as caught:
        check(torch.tensor([0.0, 1.0, value, value], dtype=torch.float64))
    message = caught.value.message
    assert "'kind'" in message
    assert "response 2: 'xxx" in message
    assert len(message) < 250  # the start of the text, not all of it


@pytest.mark.parametrize("value", [1e38, -1e20, 2e15])
def test_a_score_too_large_to_compute_with_is_refused_like_one_that_is_not_finite(value):
    with pytest.raises(UserError, match=r"'kind' returned .* for response 2"):
        check(torch.tensor([0.0, -1e15, value, 0.0], dtype=torch.float64))
