"""CTWA, the Lagrangian and the hypervolume multiplier, each against its definition."""

import math

import numpy as np
import pytest
import torch

import oracles
from pama_exp.errors import UserError
from pama_exp.solvers import adaptive
from pama_exp.solvers.adaptive import CTWA, DynamicHypervolume, Lagrangian
from rounding import rounding

MASK = torch.ones(6, 2, dtype=torch.bool)


def advantages(seed=0):
    return torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(seed))


def test_covariance_is_numpys_within_each_group():
    given = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    rewards, signal = given[:2], given[2]
    expected = [
        np.mean([np.cov(r[g : g + 3], signal[g : g + 3], bias=True)[0, 1] for g in (0, 3)]) for r in rewards.numpy()
    ]
    off = rounding(torch.float32, 12, given.abs().max().item() ** 2)  # two means and a sum of products in each group
    np.testing.assert_allclose(adaptive.within_group_covariance(rewards, signal, 3).numpy(), expected, atol=off, rtol=0)


def ctwa(**settings):
    solver = CTWA([0.5, 0.5], **settings)
    solver.group_size = 3
    return solver


def test_ctwa_lifts_the_objective_that_the_signal_works_against():
    first = advantages()
    given = torch.stack([first[0], -0.3 * first[0]])  # the signal is 0.35 of the first: the second falls with it
    rewards = given.mean(2)
    solver = ctwa(target=0.0, step_size=2.0, decay=0.5)
    solver.on_rewards(rewards)
    combined = solver.on_advantages(given, MASK)
    torch.testing.assert_close(combined[0], 0.35 * first[0])
    seen = adaptive.within_group_covariance(rewards, combined[0].mean(1), 3)
    assert seen[0] > 0 > seen[1]
    lifted = math.exp(2.0 * -seen[1].item())
    solver.on_rewards(rewards)
    solver.on_advantages(given, MASK)
    assert solver.latest_weights.tolist() == pytest.approx([1 / (1 + lifted), lifted / (1 + lifted)], rel=1e-5)
    later = adaptive.within_group_covariance(
        rewards, solver.latest_weights[0] * rewards[0] + solver.latest_weights[1] * rewards[1], 3
    )
    torch.testing.assert_close(solver.covariance, 0.5 * seen + 0.5 * later)


def test_ctwa_clips_the_signal_it_measures():
    given = 100 * advantages()
    solver = ctwa(bound=0.5)
    solver.on_rewards(given.mean(2))
    solver.on_advantages(given, MASK)
    signal = (0.5 * given.sum(0)).mean(1).clamp(-0.5, 0.5)
    torch.testing.assert_close(solver.covariance, adaptive.within_group_covariance(given.mean(2), signal, 3))


def test_ctwa_leaves_weights_alone_where_targets_are_met():
    given = advantages()
    solver = ctwa(target=-1e6)
    for _ in range(3):
        solver.on_rewards(given.mean(2))
        solver.on_advantages(given, MASK)
    assert solver.latest_weights.tolist() == [0.5, 0.5]


def test_lagrangian_without_multipliers_is_its_primary_objective():
    given = advantages()
    for primary in (0, 1):
        solver = Lagrangian([1.0, 1.0], primary, targets=[None, None])
        solver.observe(torch.zeros(2, 6))
        assert torch.equal(solver.on_advantages(given, MASK)[0], given[primary])


def test_multipliers_rise_with_what_is_missed_are_capped_and_fall_to_zero():
    solver = Lagrangian([1.0, 1.0], targets=[None, 0.8], step_size=2.0, cap=1.5)
    given = advantages()
    solver.observe(torch.tensor([[9.0] * 6, [0.5] * 6]))
    torch.testing.assert_close(solver.on_advantages(given, MASK)[0], (given[0] + 0.6 * given[1]) / 1.6)
    assert solver.latest_weights.tolist() == pytest.approx([1 / 1.6, 0.6 / 1.6])
    solver.observe(torch.zeros(2, 6))
    torch.testing.assert_close(solver.on_advantages(given, MASK)[0], (given[0] + 1.5 * given[1]) / 2.5)
    solver.observe(torch.full((2, 6), 5.0))
    torch.testing.assert_close(solver.on_advantages(given, MASK)[0], given[0])


def test_lagrangian_targets_are_the_starting_policys_scores_unless_given():
    scores = torch.tensor([[0.2, 0.4], [0.6, 1.0]])
    solver = Lagrangian([1.0, 1.0])
    assert solver.needs_calibration
    solver.calibrate(scores, 100 * scores)
    torch.testing.assert_close(solver.targets, torch.tensor([0.3, 0.8]))
    assert not Lagrangian([1.0, 1.0], targets=[None, 0.5]).needs_calibration


def test_the_multiplier_follows_what_a_validation_adds_to_the_hypervolume():
    solver = DynamicHypervolume([0.5, 0.5])
    scores = torch.tensor([[0.0, 2.0], [1.0, 5.0]])  # means 1 and 3, deviations 1 and 2
    solver.calibrate(scores, scores)
    given = advantages()
    linear = 0.5 * given.sum(0)
    assert torch.equal(solver.on_advantages(given, MASK)[0], linear)
    archive: list[list[float]] = []
    for point in ([1.0, 3.0], [1.5, 3.0], [1.2, 2.0], [0.5, 6.0]):
        solver.on_validation(torch.tensor(point))
        standardised = [(point[0] - 1) / 1, (point[1] - 3) / 2]
        corner = np.array([-1.0, -1.0])
        before = oracles.hypervolume_by_inclusion_exclusion(np.array(archive), corner) if archive else 0.0
        archive.append(standardised)
        added = oracles.hypervolume_by_inclusion_exclusion(np.array(archive), corner) - before
        expected = 1.0 if len(archive) == 1 else 0.5 + 1.5 * math.tanh(added)
        torch.testing.assert_close(solver.on_advantages(given, MASK)[0], expected * linear)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: CTWA([1.0, 0.0]), "0.0"),
        (lambda: CTWA([1.0, 1.0], target=[0.1]), "[0.1]"),
        (lambda: CTWA([1.0, 1.0], decay=1.0), "1.0"),
        (lambda: Lagrangian([1.0, 1.0], primary=2), "2"),
        (lambda: Lagrangian([1.0, 1.0], targets=[0.5]), "[0.5]"),
        (lambda: Lagrangian([1.0, 1.0], initial=20.0), "20.0"),
    ],
)
def test_settings_that_do_not_fit_are_shown(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message
