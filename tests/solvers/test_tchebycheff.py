"""Scalarised rewards against their definition, and the reductions from one method to another."""

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers.scalarizers import Linear
from pama_exp.solvers.tchebycheff import SmoothTchebycheff, Tchebycheff
from rounding import rounding

WEIGHTS, IDEAL = [0.2, 0.3, 0.5], [1.0, 2.0, 0.5]


def rewards(seed=0):
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))


def by_definition(given, rho):
    shortfall = np.array(WEIGHTS)[:, None] * (np.array(IDEAL)[:, None] - given.numpy())
    return -shortfall.max(0) + rho * (np.array(WEIGHTS)[:, None] * given.numpy()).sum(0)


@pytest.mark.parametrize("rho", [0.0, 0.05, 2.0])
def test_is_the_weighted_distance_in_the_worst_objective(rho):
    given = rewards()
    off = rounding(torch.float32, 8, (1 + rho) * 4.0)  # weights, shortfalls of at most 4, and the sum of three rewards
    found = Tchebycheff(WEIGHTS, rho, IDEAL).on_rewards(given)[0].numpy()
    np.testing.assert_allclose(found, by_definition(given, rho), atol=off, rtol=0)


def test_smooth_is_the_soft_maximum_and_becomes_tchebycheff():
    given = rewards()
    mu = 0.3
    shortfall = np.array(WEIGHTS)[:, None] * (np.array(IDEAL)[:, None] - given.double().numpy())
    expected = -mu * np.log(np.exp(shortfall / mu).sum(0))
    np.testing.assert_allclose(SmoothTchebycheff(WEIGHTS, mu, IDEAL).on_rewards(given)[0].numpy(), expected, atol=1e-5)
    distance = [
        (SmoothTchebycheff(WEIGHTS, m, IDEAL).on_rewards(given)[0] - torch.tensor(by_definition(given, 0.0)))
        .abs()
        .max()
        .item()
        for m in (0.1, 0.01, 0.001)
    ]
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] < 0.002


def test_a_large_augmentation_is_linear():
    given = rewards()
    augmented = Tchebycheff(WEIGHTS, 1e4, IDEAL).on_rewards(given) / 1e4
    torch.testing.assert_close(augmented, Linear(WEIGHTS, "reward").on_rewards(given), atol=1e-3, rtol=0)


@pytest.mark.parametrize("make", [Tchebycheff, SmoothTchebycheff])
def test_the_ideal_point_is_the_calibrations_best_and_then_frozen(make):
    calibration = rewards(1)
    solver = make(WEIGHTS)
    assert solver.needs_calibration
    solver.calibrate(calibration * 7, calibration)  # scores before and after normalisation: it scalarises the latter
    assert torch.equal(solver.ideal, calibration.amax(1))
    better = calibration + 5
    solver.observe(better)
    solver.on_rewards(better)
    assert torch.equal(solver.ideal, calibration.amax(1))
    given = make(WEIGHTS, ideal=IDEAL)
    assert not given.needs_calibration
    given.calibrate(calibration, calibration)
    assert given.ideal.tolist() == IDEAL


def test_weights_logged_are_the_shares_of_responses_where_an_objective_decides():
    solver = Tchebycheff([0.5, 0.5], ideal=[0.0, 0.0])
    solver.on_rewards(torch.tensor([[-2.0, -1.0, -1.0, -3.0], [-1.0, -2.0, -1.0, -1.0]]))  # first, second, tie, first
    assert solver.latest_weights.tolist() == [2.5 / 4, 1.5 / 4]
    smooth = SmoothTchebycheff([0.5, 0.5], mu=1e-4, ideal=[0.0, 0.0])
    smooth.on_rewards(torch.tensor([[-2.0, -1.0, -1.0, -3.0], [-1.0, -2.0, -1.0, -1.0]]))
    torch.testing.assert_close(smooth.latest_weights, solver.latest_weights)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: Tchebycheff(WEIGHTS, rho=-0.1), "-0.1"),
        (lambda: Tchebycheff(WEIGHTS, ideal=[1.0]), "[1.0]"),
        (lambda: SmoothTchebycheff(WEIGHTS, mu=0.0), "0.0"),
    ],
)
def test_settings_out_of_range_are_shown(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message
