import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers import solver
from pama_exp.solvers.pama import PAMA
from pama_exp.solvers.scalarizers import Linear


def no_gramian(target="parameters"):
    raise AssertionError("the Gramian costs N backward passes and was not needed")


def test_weights_are_normalised_to_the_simplex():
    torch.testing.assert_close(solver.Solver([2.0, 6.0]).weights, torch.tensor([0.25, 0.75]))
    assert solver.Solver([1e308, 1e308]).weights.tolist() == [0.5, 0.5]
    assert solver.Solver([0.0, 3.0]).weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.1], [1.0, float("nan")], [1.0, float("inf")]])
def test_unusable_weights_are_shown_to_the_user(weights):
    with pytest.raises(UserError) as caught:
        solver.Solver(weights)
    assert str(weights) in caught.value.message


def test_a_solver_that_overrides_nothing_changes_nothing():
    base = solver.Solver([1.0, 1.0, 2.0])
    rewards, advantages, mask = torch.randn(3, 4), torch.randn(3, 4, 5), torch.ones(4, 5, dtype=torch.bool)
    assert base.num_channels == 3
    assert torch.equal(base.on_rewards(rewards), rewards)
    assert torch.equal(base.on_advantages(advantages, mask), advantages)
    assert base.on_losses(torch.randn(3), no_gramian).tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(base.latest_weights, base.weights)
    assert base.state_dict() == {}


def test_linear_weighs_rewards_or_advantages_and_never_both():
    rewards = torch.tensor([[1.0, 2.0], [5.0, 10.0]])
    advantages, mask = torch.stack([torch.ones(2, 3), 5 * torch.ones(2, 3)]), torch.ones(2, 3, dtype=torch.bool)
    in_rewards, in_advantages = Linear([3.0, 1.0], space="reward"), Linear([3.0, 1.0], space="advantage")
    assert in_rewards.num_channels == 1
    assert in_rewards.on_rewards(rewards).tolist() == [[2.0, 4.0]]
    assert torch.equal(in_rewards.on_advantages(advantages[:1], mask), advantages[:1])
    assert in_advantages.num_channels == 2
    assert torch.equal(in_advantages.on_rewards(rewards), rewards)
    assert in_advantages.on_advantages(advantages, mask).tolist() == torch.full((1, 2, 3), 2.0).tolist()


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: Linear([1.0, 1.0], space="loss"), "loss"),
        (lambda: PAMA([1.0, 1.0], granularity="word"), "word"),
        (lambda: PAMA([1.0, 0.0]), "[1.0, 0.0]"),
    ],
)
def test_a_setting_that_does_not_exist_is_shown_with_its_value(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message
