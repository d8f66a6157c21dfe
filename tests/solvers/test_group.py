"""GDPO and RVPO on rewards standardised within groups, and what one becomes at the other's ends."""

import numpy as np
import pytest
import torch

import oracles
from pama_exp.errors import UserError
from pama_exp.rl.estimators import Group
from pama_exp.solvers import group
from pama_exp.solvers.group import GDPO, RVPO

WEIGHTS = [0.2, 0.3, 0.5]
MASK = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4, 0])[:, None]


def standardised(rewards):
    nothing = torch.zeros(6, 4)
    return Group("standardise", 3).estimate(rewards, nothing, nothing.expand(len(rewards), 6, 4), MASK)[0]


def rewards(seed=0):
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))


def groups_by_hand(given):
    grouped = given.double().numpy().reshape(3, 2, 3)
    return ((grouped - grouped.mean(2, keepdims=True)) / grouped.std(2, ddof=1, keepdims=True)).reshape(3, 6)


def test_gdpo_adds_rewards_standardised_one_by_one_and_whitens_the_sum():
    given = rewards()
    total = torch.tensor(np.array(WEIGHTS) @ groups_by_hand(given)).float()[:, None] * MASK
    plain = GDPO(WEIGHTS, whiten=False).on_advantages(standardised(given), MASK)[0]
    torch.testing.assert_close(plain, total, atol=1e-5, rtol=1e-5)
    whitened = GDPO(WEIGHTS).on_advantages(standardised(given), MASK)[0]
    torch.testing.assert_close(whitened, oracles.whitened_responses(total, MASK), atol=1e-5, rtol=1e-5)


def test_whitening_counts_responses_not_tokens_and_leaves_out_those_without_any():
    given = torch.tensor([1.0, 2.0, 4.0, 0.0, 3.0, 99.0])[:, None] * MASK
    torch.testing.assert_close(group.whiten_responses(given, MASK), oracles.whitened_responses(given, MASK))
    assert group.whiten_responses(torch.full((6, 4), 0.3), MASK).abs().sum() == 0


def test_epsilon_is_added_to_the_deviation_of_the_sum():
    total = GDPO(WEIGHTS, whiten=False).on_advantages(standardised(rewards()), MASK)[0]
    deviation = total[:5, 0].numpy().std(ddof=1)  # of the five that have a token
    plain, softened = (GDPO(WEIGHTS, epsilon=e).on_advantages(standardised(rewards()), MASK)[0] for e in (0.0, 0.5))
    torch.testing.assert_close(softened, plain * float(deviation / (deviation + 0.5)))


def test_a_group_that_does_not_vary_gives_nothing():
    given = rewards()
    given[:, :3] = 0.7
    for solver in (GDPO(WEIGHTS, whiten=False), RVPO(WEIGHTS, k=2.0)):
        combined = solver.on_advantages(standardised(given), MASK)[0]
        assert combined[:3].abs().max() < 1e-6
        assert combined[3:].abs().max() > 0.1
    assert bool(GDPO(WEIGHTS).on_advantages(standardised(torch.ones(3, 6)), MASK).isfinite().all())


@pytest.mark.parametrize("k", [0.5, 3.0])
def test_rvpo_is_the_soft_minimum(k):
    advantages = standardised(rewards())
    expected = -np.log((np.array(WEIGHTS)[:, None, None] * np.exp(-k * advantages.double().numpy())).sum(0)) / k
    combined = RVPO(WEIGHTS, k).on_advantages(advantages, MASK)[0]
    np.testing.assert_allclose(combined.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_rvpo_at_its_ends_is_gdpo_and_the_minimum(whiten):
    advantages = standardised(rewards())
    mean = GDPO(WEIGHTS, whiten).on_advantages(advantages, MASK)
    for k in (0.0, 1e-5):
        torch.testing.assert_close(RVPO(WEIGHTS, k, whiten).on_advantages(advantages, MASK), mean, atol=1e-4, rtol=0)
    least = RVPO(WEIGHTS, 1e5).on_advantages(advantages, MASK)[0]
    torch.testing.assert_close(least, advantages.amin(0), atol=1e-4, rtol=0)


def test_an_objective_without_weight_has_no_say_in_rvpo():
    advantages = standardised(rewards())
    for k in (2.0, 200.0):  # the larger would round away all but the least, were that one without weight
        without = RVPO([0.4, 0.6], k).on_advantages(advantages[:2], MASK)
        torch.testing.assert_close(RVPO([0.4, 0.6, 0.0], k).on_advantages(advantages, MASK), without)


def test_a_k_that_is_no_softness_is_refused():
    for k in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=str(k)):
            RVPO(WEIGHTS, k)
