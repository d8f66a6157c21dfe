"""The estimators: what is compared with what, and where the KL penalty goes."""

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.rl.estimators import GAE, Group, ReinforcePlusPlus

MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
SCORES = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 1.0, 0.0]])
PENALTY = torch.full((4, 3), 0.5)


def test_with_gamma_and_lambda_one_and_no_values_the_advantage_is_the_reward_to_go():
    advantages, returns = GAE(gamma=1.0, lam=1.0, whiten="none").estimate(SCORES, PENALTY, torch.zeros(2, 4, 3), MASK)
    # Row 1 has two tokens: 2 − 0.5 at the last, one more penalty before it.
    torch.testing.assert_close(advantages[0, 1], torch.tensor([1.0, 1.5, 0.0]))
    torch.testing.assert_close(returns, advantages)


def test_returns_are_what_the_values_should_have_been():
    values = torch.full((2, 4, 3), 3.0)
    _, returns = GAE(gamma=1.0, lam=1.0, whiten="none").estimate(SCORES, PENALTY * 0, values, MASK)
    torch.testing.assert_close(returns[0, 1], torch.tensor([2.0, 2.0, 0.0]))


@pytest.mark.parametrize(("whiten", "mean"), [("center_and_scale", 0.0), ("scale", None)])
def test_whitening_is_per_channel_and_gives_unit_deviation(whiten, mean):
    raw, _ = GAE(whiten="none").estimate(SCORES, PENALTY, torch.zeros(2, 4, 3), MASK)
    advantages, _ = GAE(whiten=whiten).estimate(SCORES, PENALTY, torch.zeros(2, 4, 3), MASK)
    for channel in range(2):
        kept = advantages[channel][MASK]
        assert kept.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
        expected = raw[channel][MASK].mean().item() if mean is None else mean
        assert kept.mean().item() == pytest.approx(expected, abs=1e-5)
    assert (advantages[:, ~MASK] == 0).all()


def test_leave_one_out_by_hand_with_the_kl_of_the_whole_response():
    advantages, _ = Group("leave_one_out", group_size=2).estimate(SCORES, PENALTY, torch.zeros(2, 4, 3), MASK)
    # Returns of the first channel: 1 − 1.5, 2 − 1.0, 4 − 0.5, 8 − 1.5.
    torch.testing.assert_close(advantages[0, :, 0], torch.tensor([-1.5, 1.5, -3.0, 3.0]))
    assert advantages[0, 1].tolist() == [1.5, 1.5, 0.0]


def test_standardised_groups_have_no_scale():
    group = Group("standardise", group_size=4)
    one, _ = group.estimate(SCORES, PENALTY * 0, torch.zeros(2, 4, 3), MASK)
    ten, _ = group.estimate(SCORES * 10, PENALTY * 0, torch.zeros(2, 4, 3), MASK)
    torch.testing.assert_close(one, ten)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GAE(gamma=1.5), "gamma=1.5"),
        (lambda: GAE(lam=-0.1), "lam=-0.1"),
        (lambda: GAE(whiten="yes"), "yes"),
        (lambda: Group("mean"), "mean"),
        (lambda: Group(group_size=1), "group_size=1"),
    ],
)
def test_a_setting_out_of_range_is_named(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_reinforce_plus_plus_whitens_what_is_left_of_the_return_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    scores, kl = torch.randn(2, 4, generator=generator), torch.rand(4, 3, generator=generator)
    mask = torch.tensor([[True] * 3, [True, True, False], [True, False, False], [True] * 3])
    found, values = ReinforcePlusPlus(gamma=0.9).estimate(scores, kl, torch.zeros(2, 4, 3), mask)
    for i in range(2):
        left = {}
        for b in range(4):
            length = int(mask[b].sum())
            earned = [(scores[i, b].item() if t == length - 1 else 0.0) - kl[b, t].item() for t in range(length)]
            left |= {(b, t): sum(0.9 ** (s - t) * earned[s] for s in range(t, length)) for t in range(length)}
        every = np.array(list(left.values()))
        for (b, t), value in left.items():
            assert found[i, b, t].item() == pytest.approx((value - every.mean()) / every.std(), abs=1e-4)
    assert values.abs().sum() == 0


def test_reinforce_plus_plus_takes_off_the_mean_of_a_prompts_answers():
    scores, mask = torch.tensor([[1.0, 3.0, 10.0, 14.0]]), torch.ones(4, 1, dtype=torch.bool)
    found = ReinforcePlusPlus(group_size=2).estimate(scores, torch.zeros(4, 1), torch.zeros(1, 4, 1), mask)[0]
    expected = np.array([-1.0, 1.0, -2.0, 2.0]) / np.sqrt(2.5)
    np.testing.assert_allclose(found[0, :, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": 1.1}, {"group_size": 0}])
def test_reinforce_plus_plus_refuses(settings):
    with pytest.raises(UserError):
        ReinforcePlusPlus(**settings)
