"""Loss scalarizers at the positive losses they are fed, against the formulas of their papers."""

import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers import loss_scalarizers
from pama_exp.solvers.ideal_gap import Gap

CALIBRATION = torch.tensor([[0.0, 1.0, 0.5], [1.0, 3.0, 2.0], [0.2, 0.4, 0.0]])  # ideal 1, 3, 0.4; means 0.5, 2, 0.2


def scores_at(left):
    """Scores that leave these shares of the way to the ideal."""
    way = torch.tensor([0.5, 1.0, 0.2])
    return (torch.tensor([1.0, 3.0, 0.4]) - torch.tensor(left) * way)[:, None].expand(3, 4)


def after(solver, *history):
    solver.calibrate(CALIBRATION, CALIBRATION)
    for left in history:
        solver.observe(scores_at(left))
    return solver.on_losses(torch.tensor([0.3, -0.1, 0.0]), lambda target="": pytest.fail("no gradients are needed"))


def normalised(values):
    return values / values.abs().sum()


def test_the_gap_is_the_share_of_the_way_that_is_left():
    gap = Gap(3)
    gap.calibrate(CALIBRATION)
    torch.testing.assert_close(gap.values(), torch.ones(3))
    gap.observe(scores_at([0.5, 1.5, -0.2]))
    torch.testing.assert_close(gap.values(), torch.tensor([0.5, 1.5, 0.01]))
    gap.calibrate(torch.full((3, 4), 0.7))
    gap.observe(torch.zeros(3, 4))
    assert gap.values().tolist() == [1.0, 1.0, 1.0]


def test_geometric_mean_weighs_by_the_inverse():
    torch.testing.assert_close(
        after(loss_scalarizers.geometric_mean([1.0] * 3), [0.5, 1.0, 0.25]), normalised(torch.tensor([2.0, 1.0, 4.0]))
    )


def test_stch_weighs_by_the_soft_maximum():
    weights, left, mu = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.5, 1.0, 0.25]), 0.07
    expected = normalised(weights * (weights * left / mu).softmax(0))
    torch.testing.assert_close(after(loss_scalarizers.stch(weights.tolist(), mu), left.tolist()), expected)


def test_dwa_weighs_by_how_slowly_losses_fall():
    history = [[1.0, 1.0, 1.0], [0.9, 0.5, 1.2], [0.8, 0.5, 0.6]]
    assert after(loss_scalarizers.dwa([1.0] * 3), *history[:2]).tolist() == pytest.approx([1 / 3] * 3)
    rates = torch.tensor(history[1]) / torch.tensor(history[0])
    torch.testing.assert_close(after(loss_scalarizers.dwa([1.0] * 3, 0.5), *history), (rates / 0.5).softmax(0))


def test_uw_learns_weights_inverse_to_the_losses():
    left = [0.5, 1.0, 0.25]
    first = torch.tensor(left)
    slope = 0.1 * (0.5 - 0.5 * first)  # ∂S/∂s at s = 0
    torch.testing.assert_close(
        after(loss_scalarizers.uw([1.0] * 3, 0.1), left, left), normalised(torch.exp(slope)), atol=1e-5, rtol=1e-5
    )
    settled = after(loss_scalarizers.uw([1.0] * 3, 0.5), *[left] * 200)
    torch.testing.assert_close(settled, normalised(1 / first), atol=1e-3, rtol=1e-3)


def test_famo_shifts_weight_to_the_loss_that_falls_slowest():
    left = torch.tensor([0.5, 1.0, 0.25])
    torch.testing.assert_close(
        after(loss_scalarizers.famo([1.0] * 3), left.tolist()), normalised(1 / left), atol=1e-5, rtol=1e-5
    )
    history = [[1.0 - 0.01 * i, 1.0 - 0.001 * i, 1.0 - 0.02 * i] for i in range(30)]
    weights = after(loss_scalarizers.famo([1.0] * 3), *history)
    share = normalised(weights * torch.tensor(history[-1]))  # z, without the 1/ℓ
    assert share[1] > share[0] > share[2]


def test_pbi_and_cosmos_weigh_by_their_derivatives():
    weights, left = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.5, 1.0, 0.25], requires_grad=True)
    unit = weights / weights.norm()
    along = left @ unit
    (slope,) = torch.autograd.grad(along + 2.0 * (left - along * unit).norm(), left)
    torch.testing.assert_close(
        after(loss_scalarizers.pbi(weights.tolist(), 2.0), left.tolist()), normalised(slope), atol=1e-4, rtol=1e-4
    )
    (slope,) = torch.autograd.grad(weights @ left - 0.5 * (weights @ left) / (weights.norm() * left.norm()), left)
    torch.testing.assert_close(
        after(loss_scalarizers.cosmos(weights.tolist(), 0.5), left.tolist()), normalised(slope), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(after(loss_scalarizers.cosmos(weights.tolist(), 0.0), left.tolist()), weights)


def test_the_users_weights_hold_until_something_was_observed():
    solver = loss_scalarizers.famo([1.0, 3.0])
    assert solver.on_losses(torch.zeros(2), lambda target="": torch.eye(2)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: loss_scalarizers.dwa([1.0], temperature=0.0), "0.0"),
        (lambda: loss_scalarizers.stch([1.0], mu=-0.1), "-0.1"),
        (lambda: loss_scalarizers.pbi([1.0], theta=-5.0), "-5.0"),
        (lambda: loss_scalarizers.cosmos([1.0], penalty=-2.0), "-2.0"),
    ],
)
def test_settings_out_of_range_are_shown(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message
