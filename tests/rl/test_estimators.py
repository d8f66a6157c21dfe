"""The estimators: what is compared with what, and where the KL penalty goes."""

import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.rl.estimators import GAE, Group

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
