"""GradNorm against autograd of its own objective, dynamic weights against their formula, GAPO against gradients."""

import pytest
import torch

import oracles
from pama_exp.errors import UserError
from pama_exp.solvers.balancing import DynamicGradient, GradNorm
from pama_exp.solvers.gapo import GAPO, PGAPO

GRADIENTS = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 0.5], [0.1, 0.0, 0.4]])
LOSSES = torch.tensor([0.1, -0.2, 0.0])


def gramian(target="parameters"):
    return GRADIENTS @ GRADIENTS.T


def test_dynamic_weights_multiply_by_the_exponential_of_their_products_once():
    weights = torch.tensor([0.2, 0.3, 0.5])
    solver = DynamicGradient(weights.tolist(), step_size=0.05, relative=False)
    for _ in range(3):
        products = (GRADIENTS * GRADIENTS.sum(0)).sum(1)
        weights = weights * torch.exp(0.05 * products)
        weights = weights / weights.sum()
        torch.testing.assert_close(solver.on_losses(LOSSES, gramian), weights)


def test_relative_products_do_not_depend_on_the_size_of_gradients():
    one, two = DynamicGradient([1.0] * 3), DynamicGradient([1.0] * 3)
    torch.testing.assert_close(one.on_losses(LOSSES, gramian), two.on_losses(LOSSES, lambda target="": 1e6 * gramian()))
    size = GRADIENTS.square().sum(1).mean()
    expected = (0.1 * (GRADIENTS @ GRADIENTS.sum(0)) / size).softmax(0)
    torch.testing.assert_close(one.latest_weights, expected)


@pytest.mark.parametrize(
    "alpha", [0.0, 1.5, 3.0]
)  # by the third power the second gradient is too small, no more too large
def test_gradnorm_takes_a_gradient_step_on_its_own_objective(alpha):
    solver = GradNorm([0.2, 0.3, 0.5], alpha=alpha, step_size=0.01)
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    solver.calibrate(scores, scores)
    solver.observe(torch.tensor([[0.9, 0.9], [0.5, 0.5], [0.3, 0.3]]))  # a fifth, all and more of the distance is left
    left = torch.tensor([0.1, 0.5, 0.7]) / 0.5
    norms = GRADIENTS.norm(dim=1) / GRADIENTS.norm(dim=1).mean()
    weights = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    target = (weights * norms).mean().detach() * (left / left.mean()) ** alpha
    (slope,) = torch.autograd.grad((weights * norms - target).abs().sum(), weights)
    moved = (weights - 0.01 * slope).detach()
    torch.testing.assert_close(solver.on_losses(LOSSES, gramian), moved / moved.sum())


def test_gradnorm_evens_out_weighted_norms_and_keeps_weights_positive():
    solver = GradNorm([1.0] * 3, alpha=0.0, step_size=0.002)
    for _ in range(1500):
        weights = solver.on_losses(LOSSES, gramian)
    weighted = weights * GRADIENTS.norm(dim=1)
    assert weighted.max() / weighted.min() < 1.3
    greedy = GradNorm([1.0] * 3, step_size=10.0)
    for _ in range(5):
        assert greedy.on_losses(LOSSES, gramian).min() > 0


@pytest.mark.parametrize("power", [1, 2])
def test_gapo_is_the_shortest_combination_of_rescaled_gradients(power):
    weights = GAPO([1.0] * 3, power).on_losses(LOSSES, gramian)
    rescaled = GRADIENTS / GRADIENTS.norm(dim=1, keepdim=True) ** power
    shortest = torch.tensor(oracles.min_norm_on_simplex_by_qp((rescaled @ rescaled.T).numpy())).float()
    expected = shortest @ rescaled
    update = weights @ GRADIENTS
    torch.testing.assert_close(update / update.norm(), expected / expected.norm(), atol=1e-4, rtol=1e-4)
    assert weights.sum().item() == pytest.approx(1)


def test_p_gapo_is_the_preference_over_unit_gradients():
    preference = torch.tensor([0.2, 0.3, 0.5])
    update = PGAPO(preference.tolist()).on_losses(LOSSES, gramian) @ GRADIENTS
    expected = preference @ (GRADIENTS / GRADIENTS.norm(dim=1, keepdim=True))
    torch.testing.assert_close(update / update.norm(), expected / expected.norm())


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: GAPO([1.0, 1.0], power=3), "3"),
        (lambda: GradNorm([1.0, 1.0], floor=0.0), "0.0"),
        (lambda: DynamicGradient([1.0, 0.0]), "0.0"),
    ],
)
def test_settings_out_of_range_are_shown(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message
