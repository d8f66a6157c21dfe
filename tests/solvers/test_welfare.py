"""Weights that follow the mean rewards, against the derivatives of the welfare that they are to raise."""

import math

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers.welfare import FastRL, ProportionalFairness, Saturation

START = torch.tensor([[0.2, 0.4, 0.6, 0.8], [0.1, 0.1, 0.3, 0.1]])
STEPS = [torch.tensor([[0.5, 0.7, 0.9, 0.9], [0.0, 0.2, 0.2, 0.0]]), torch.tensor([[0.6, 0.6, 0.8, 1.0], [0.4] * 4])]
MASK = torch.tensor([[True, True], [True, False], [True, True], [True, True]])


def welfare(means, point, start, preference, alpha):
    """Σ p u^(1−α)/(1−α), u the gain in starting deviations."""
    u = (means - point) / start
    return float((preference * (np.log(u) if alpha == 1 else u ** (1 - alpha) / (1 - alpha))).sum())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("given", [{}, {"disagreement": [-0.3, 0.05]}, {"barrier": 1.5}])
def test_weights_are_the_slope_of_welfare_for_a_step_of_each_whitened_advantage(alpha, given):
    """A unit of whitened advantage is σ of reward: the slope is found by a small difference, not by a formula."""
    solver = ProportionalFairness([0.3, 0.7], alpha=alpha, decay=0.0, **given)
    solver.calibrate(START, START)
    solver.observe(STEPS[0])
    scores, start = STEPS[0].double().numpy(), START.double().numpy()
    point = np.array(given.get("disagreement", [0.0, 0.0]))
    if "barrier" in given:
        point = start.mean(1) - 1.5 * start.std(1)
    slopes = []
    for i in range(2):
        moved = scores.mean(1)
        moved[i] += 1e-6 * scores[i].std()
        values = [welfare(m, point, start.std(1), np.array([0.3, 0.7]), alpha) for m in (scores.mean(1), moved)]
        slopes.append((values[1] - values[0]) / 1e-6)
    np.testing.assert_allclose(solver.latest_weights.numpy(), np.array(slopes) / sum(slopes), rtol=1e-4)


def test_the_means_are_a_moving_average():
    solver = ProportionalFairness([0.5, 0.5], decay=0.75)
    solver.calibrate(START, START)
    for scores in STEPS:
        solver.observe(scores)
    means = 0.75 * STEPS[0].mean(1) + 0.25 * STEPS[1].mean(1)
    torch.testing.assert_close(solver.welfare.mean.float(), means)
    assert solver.latest_weights.tolist() == [1.0, 0.0]  # the second does not vary: nothing to learn of it


@pytest.mark.parametrize(
    ("scores", "point"),
    [([0.0, 0.5, 1.0], 0.0), ([-1.0, 0.0, 1.0], -2 * math.sqrt(2 / 3))],
    ids=["never negative", "signed"],
)
def test_the_disagreement_point_is_zero_or_two_deviations_below(scores, point):
    solver = ProportionalFairness([1.0])
    solver.calibrate(torch.tensor([scores]), torch.tensor([scores]))
    assert solver.welfare.point.item() == pytest.approx(point, abs=1e-6)


def test_an_objective_at_its_barrier_takes_nearly_all_and_below_it_no_more():
    weights = []
    for lagging in (0.5, 0.001, -3.0):
        solver = ProportionalFairness([0.5, 0.5], decay=0.0, disagreement=0.0)
        solver.calibrate(START, START)
        solver.observe(torch.stack([STEPS[0][0], lagging + torch.tensor([-0.1, 0.1, -0.1, 0.1])]))
        weights.append(solver.latest_weights[1].item())
    assert weights[0] < weights[1] == weights[2] < 1


def test_saturation_is_the_whitened_sum_under_what_is_left():
    advantages = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    solver = Saturation([0.5, 0.5], gamma=0.5, low=[0.0, 0.0], high=[1.0, 0.5])
    solver.observe(STEPS[0])
    left = np.sqrt([1 - STEPS[0][0].mean().item(), 1 - STEPS[0][1].mean().item() / 0.5])
    raw = np.einsum("n,nbt->bt", left, advantages.numpy())
    means = np.array([raw[b][MASK[b].numpy()].mean() for b in range(4)])
    expected = np.where(MASK.numpy(), (raw - means.mean()) / means.std(ddof=1), 0)
    np.testing.assert_allclose(solver.on_advantages(advantages, MASK)[0].numpy(), expected, atol=1e-5)


def test_saturation_takes_the_starting_range_and_forgets_what_is_reached():
    solver = Saturation([0.5, 0.5])
    solver.calibrate(START, START)
    assert (solver.low.tolist(), solver.high.tolist()) == (pytest.approx([0.2, 0.1]), pytest.approx([0.8, 0.3]))
    solver.observe(torch.tensor([[0.8, 0.9], [0.2, 0.2]]))
    assert solver.latest_weights.tolist() == [0.0, 1.0]
    solver.observe(torch.ones(2, 2))
    assert solver.latest_weights.tolist() == [0.5, 0.5]  # nothing is left anywhere


def test_fastrl_moves_weights_against_the_means():
    solver = FastRL([0.25, 0.75], step_size=2.0)
    found = [solver.on_rewards(scores)[0] for scores in STEPS]
    weights = np.array([0.25, 0.75])
    for scores, channel in zip(STEPS, found, strict=True):
        weights = weights * np.exp(-2.0 * scores.numpy().mean(1))
        weights /= weights.sum()
        np.testing.assert_allclose(channel.numpy(), weights @ scores.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ProportionalFairness([1, 1], alpha=-1.0), "solver.alpha=-1"),
        (lambda: ProportionalFairness([1, 1], alpha=math.nan), "solver.alpha=nan"),
        (lambda: ProportionalFairness([1, 1], disagreement=0.0, barrier=1.0), "both given"),
        (lambda: ProportionalFairness([1, 1], disagreement=[0.0]), "1 values for 2"),
        (lambda: ProportionalFairness([1, 1], barrier=0.0), "solver.barrier=0"),
        (lambda: ProportionalFairness([1, 1], decay=1.0), "solver.decay=1"),
        (lambda: Saturation([1, 1], gamma=-0.1), "solver.gamma=-0.1"),
        (lambda: Saturation([1, 1], low=1.0, high=[2.0, 1.0]), "not below"),
        (lambda: Saturation([1, 1], low=[1.0]), "solver.low"),
        (lambda: FastRL([1, 0]), "stay 0"),
        (lambda: FastRL([1, 1], step_size=0.0), "solver.step_size=0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(UserError, match=said):
        make()
