"""GAE against its double sum and torchrl; whitening and group baselines against numpy, on ragged and degenerate input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from pama_exp.errors import UserError
from pama_exp.rl import advantages
from rounding import rounding
from samplers import ADVANTAGES, ragged_mask


def test_scores_arrive_at_the_last_token_and_kl_is_charged_on_each():
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    scores = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    penalty = torch.tensor([[0.1, 0.2, 9.0], [0.1, 0.2, 0.3], [9.0, 9.0, 9.0]])
    expected = torch.tensor(
        [
            [[-0.1, 0.8, 0.0], [-0.1, -0.2, 1.7], [0.0, 0.0, 0.0]],
            [[-0.1, 9.8, 0.0], [-0.1, -0.2, 19.7], [0.0, 0.0, 0.0]],
        ]
    )
    torch.testing.assert_close(advantages.token_rewards(scores, penalty, mask), expected)


def rounding_of_gae(rewards, values, length):
    """Three numbers are added per token: a reward, and twice a value."""
    return rounding(torch.float32, 3 * length, (rewards.abs().sum() + 2 * values.abs().sum()).item())


def test_gae_is_the_double_sum_over_later_tokens():
    mask = ragged_mask(5, 8)
    rewards, values = ADVANTAGES["normal"]((2, 5, 8), 0), ADVANTAGES["normal"]((2, 5, 8), 1)
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (0.7, 0.0), (0.5, 1.0)):
        found = advantages.gae(rewards, values, mask, gamma, lam)
        assert bool((found[:, ~mask] == 0).all())
        for i in range(2):
            for b in range(5):
                length = int(mask[b].sum())
                expected = oracles.gae_double_sum(rewards[i, b], values[i, b], length, gamma, lam)
                off = rounding_of_gae(rewards[i, b], values[i, b], length)
                assert found[i, b, :length].tolist() == pytest.approx(expected, abs=off, rel=0)


@given(st.integers(1, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_gae_is_the_double_sum_for_any_discount(length, gamma, lam, seed):
    rewards, values = ADVANTAGES["normal"]((1, length), seed), ADVANTAGES["normal"]((1, length), seed + 1)
    found = advantages.gae(rewards, values, torch.ones(1, length, dtype=torch.bool), gamma, lam)
    expected = oracles.gae_double_sum(rewards[0], values[0], length, gamma, lam)
    off = rounding_of_gae(rewards[0], values[0], length)
    assert found[0].tolist() == pytest.approx(expected, abs=off, rel=0)


def test_gae_agrees_with_torchrl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchrl's own deprecations at import
        from torchrl.objectives.value.functional import generalized_advantage_estimate

    mask = ragged_mask(5, 8, empty_row=False)
    rewards, values = ADVANTAGES["normal"]((5, 8), 2), ADVANTAGES["normal"]((5, 8), 3)
    found = advantages.gae(rewards, values, mask, 0.97, 0.9)
    for b in range(5):
        length = int(mask[b].sum())
        column = (length, 1)  # torchrl wants time and feature as the last two dimensions
        value, done = values[b, :length].reshape(column), torch.zeros(column, dtype=torch.bool)
        done[-1] = True
        following = torch.cat([value[1:], torch.full((1, 1), 99.0)])  # the last is cut off by `done`
        theirs, _ = generalized_advantage_estimate(
            0.97, 0.9, value, following, rewards[b, :length].reshape(column), done
        )
        torch.testing.assert_close(found[b, :length], theirs[:, 0])


def test_gae_ignores_whatever_stands_on_padding():
    mask = ragged_mask(5, 8)
    rewards, values = ADVANTAGES["normal"]((2, 5, 8), 4), ADVANTAGES["normal"]((2, 5, 8), 5)
    clean = advantages.gae(rewards, values, mask, 0.9, 0.9)
    for garbage in (1e6, float("nan")):
        dirty = (torch.where(mask, x, garbage) for x in (rewards, values))
        assert torch.equal(advantages.gae(*dirty, mask, 0.9, 0.9), clean)


def test_a_perfect_critic_leaves_no_advantage():
    mask = ragged_mask(4, 6)
    rewards = torch.where(mask, ADVANTAGES["normal"]((4, 6), 6), 0)
    returns = rewards.flip(1).cumsum(1).flip(1)
    off = rounding_of_gae(rewards, returns, 6)
    torch.testing.assert_close(advantages.gae(rewards, returns, mask, 1.0, 0.95), torch.zeros(4, 6), atol=off, rtol=0)


def test_whitening_is_numpys_per_objective_over_valid_tokens():
    mask = ragged_mask(6, 9)
    given_ = torch.stack([3 + 2 * ADVANTAGES["normal"]((6, 9), 0), 100 * ADVANTAGES["normal"]((6, 9), 1) - 7])
    dirty = torch.where(mask, given_, float("nan"))
    centred, scaled = advantages.center_and_scale(dirty, mask), advantages.scale_about_mean(dirty, mask)
    for i in range(2):
        valid = given_[i][mask].double().numpy()
        white = (valid - valid.mean()) / valid.std()
        # Sums over all tokens for the mean and the deviation, of what is at most so many deviations.
        off = rounding(torch.float32, 2 * len(valid), np.abs(valid).max() / valid.std())
        np.testing.assert_allclose(centred[i][mask].numpy(), white, atol=off, rtol=0)
        off += rounding(torch.float32, len(valid), np.abs(valid).mean())
        np.testing.assert_allclose(scaled[i][mask].numpy(), white + valid.mean(), atol=off, rtol=0)
    assert bool((centred[:, ~mask] == 0).all())
    assert bool((scaled[:, ~mask] == 0).all())


@pytest.mark.parametrize("value", [0.0, 0.3, 1e-12, 1e8 / 3, -3.7e20])
def test_advantages_that_do_not_vary_become_zero(value):
    constant, mask = torch.full((2, 7, 11), value), ragged_mask(7, 11)
    assert advantages.center_and_scale(constant, mask).abs().max().item() == 0
    torch.testing.assert_close(advantages.scale_about_mean(constant, mask), torch.where(mask, constant, 0))


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("whiten", [advantages.center_and_scale, advantages.scale_about_mean])
def test_whitening_is_finite_with_one_token_or_none(kind, whiten):
    given_ = ADVANTAGES[kind]((3, 2, 4), 0)
    one, none = torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    one[0, 0] = True
    for mask in (one, none, ~none):
        assert bool(whiten(given_, mask).isfinite().all())
    assert bool((advantages.center_and_scale(given_, one) == 0).all())
    assert bool((whiten(given_, none) == 0).all())


@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_whitening_forgets_the_scale(scale):
    given_, mask = ADVANTAGES["normal"]((2, 6, 9), 0), ragged_mask(6, 9)
    found, wanted = advantages.center_and_scale(scale * given_, mask), advantages.center_and_scale(given_, mask)
    off = rounding(torch.float32, 2 * int(mask.sum()), wanted.abs().max().item())
    torch.testing.assert_close(found, wanted, atol=off, rtol=0)


def test_leave_one_out_compares_each_response_with_the_others_of_its_group():
    rewards = torch.tensor([[1.0, 2.0, 6.0, 0.0, 0.0, 3.0]])
    assert advantages.leave_one_out(rewards, 3).tolist() == [[-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]]


def test_group_standardise_is_numpys_within_each_group():
    rewards = ADVANTAGES["normal"]((2, 12), 0)
    groups = rewards.double().numpy().reshape(2, 3, 4)
    expected = (groups - groups.mean(-1, keepdims=True)) / groups.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(advantages.group_standardise(rewards, 4).numpy(), expected.reshape(2, 12), atol=1e-5)


@pytest.mark.parametrize("baseline", [advantages.leave_one_out, advantages.group_standardise])
def test_groups_that_tell_nothing_give_zero(baseline):
    rewards = torch.tensor([[0.1, 0.1, 0.1, 1.0, 2.0, 3.0]])
    assert baseline(rewards, 1).tolist() == [[0.0] * 6]
    found = baseline(rewards, 3)[0]
    torch.testing.assert_close(found[:3], torch.zeros(3), atol=rounding(torch.float32, 3, 0.3), rtol=0)
    assert found[3] < 0 < found[5]


@pytest.mark.parametrize("baseline", [advantages.leave_one_out, advantages.group_standardise])
def test_groups_that_do_not_divide_the_batch_are_refused(baseline):
    with pytest.raises(UserError, match="5 responses"):
        baseline(torch.zeros(2, 5), 2)


def test_broadcast_gives_every_valid_token_its_responses_value():
    mask = torch.tensor([[True, False], [True, True]])
    assert advantages.broadcast_to_tokens(torch.tensor([[3.0, 4.0]]), mask).tolist() == [[[3.0, 0.0], [4.0, 4.0]]]
