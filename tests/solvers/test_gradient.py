"""Min-norm weights against quadprog on every kind of gradient, and what the normalisers do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from pama_exp.errors import UserError
from pama_exp.solvers import gradient
from rounding import rounding
from samplers import GRADIENTS

COUNTS = (1, 2, 3, 5, 16)


def squared_norm(weights: torch.Tensor, gradients: torch.Tensor) -> float:
    """‖Σ w g‖², relative to the largest gradient's."""
    scale = gradients.double().norm(dim=1).max().item() or 1.0
    return (weights.double() @ (gradients.double() / scale)).square().sum().item()


def assert_in_simplex(weights):
    assert bool((weights >= 0).all())
    assert weights.sum().item() == pytest.approx(1, abs=rounding(torch.float32, len(weights)), rel=0)


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("count", COUNTS)
def test_attains_the_norm_that_a_quadratic_program_attains(kind, count):
    for seed in range(5):
        for width in (2, 3, 40):
            gradients = GRADIENTS[kind]((count, width), seed).double()
            gramian = gradients @ gradients.T
            weights = gradient.min_norm_weights(gramian)
            assert_in_simplex(weights)
            by_qp = torch.from_numpy(oracles.min_norm_on_simplex_by_qp(gramian.numpy()))
            ours, theirs = squared_norm(weights, gradients), squared_norm(by_qp, gradients)
            assert ours <= theirs + 1e-9
            if kind != "mixed scale":  # quadprog's own ridge swamps the small gradients there
                assert ours >= theirs - 1e-9


@given(st.integers(2, 16), st.integers(1, 20), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_is_optimal_by_its_own_conditions(count, width, seed):
    """x nearest to 0: ⟨x, gⁱ⟩ ≥ ‖x‖² for every i."""
    gradients = GRADIENTS["normal"]((count, width), seed).double()
    weights = gradient.min_norm_weights(gradients @ gradients.T)
    assert_in_simplex(weights)
    nearest = weights @ gradients
    assert bool((gradients @ nearest >= nearest @ nearest - 1e-6).all())


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("count", COUNTS)
def test_a_float32_gramian_is_good_enough(kind, count):
    gradients = GRADIENTS[kind]((count, 30), 0)
    weights = gradient.min_norm_weights(gradients @ gradients.T)
    assert_in_simplex(weights)
    exact = gradient.min_norm_weights(gradients.double() @ gradients.double().T)
    assert squared_norm(weights, gradients) <= squared_norm(exact, gradients) + 1e-5


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("count", COUNTS)
def test_order_of_objectives_is_of_no_consequence(kind, count):
    gradients = GRADIENTS[kind]((count, 6), 1).double()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    weights = gradient.min_norm_weights(gradients @ gradients.T)
    permuted = gradient.min_norm_weights(gradients[order] @ gradients[order].T)
    assert squared_norm(permuted, gradients[order]) == pytest.approx(squared_norm(weights, gradients), abs=1e-9)


def test_ties_share():
    ones = torch.ones(4, 4)
    torch.testing.assert_close(gradient.min_norm_weights(ones), torch.full((4,), 0.25))
    torch.testing.assert_close(gradient.min_norm_weights(torch.zeros(3, 3)), torch.full((3,), 1 / 3))
    torch.testing.assert_close(gradient.min_norm_weights(ones[:2, :2]), torch.full((2,), 0.5))
    twins = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(gradient.min_norm_weights(twins @ twins.T), torch.tensor([0.25, 0.25, 0.5]))


def test_vanishing_gradients_take_all_the_mass():
    gradients = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert gradient.min_norm_weights(gradients @ gradients.T).tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e4, 1e8])
def test_scale_of_all_gradients_is_of_no_consequence(scale):
    gradients = GRADIENTS["normal"]((5, 4), 2).double()
    weights = gradient.min_norm_weights(gradients @ gradients.T)
    torch.testing.assert_close(gradient.min_norm_weights(scale**2 * gradients @ gradients.T), weights)


@pytest.mark.parametrize("mode", gradient.NORMALISATIONS)
def test_normalised_gramian_is_the_gramian_of_normalised_gradients(mode):
    gradients = GRADIENTS["normal"]((4, 9), 0).double()
    losses = torch.tensor([0.5, -2.0, 1.0, 3.0], dtype=torch.float64)
    for i in range(4):
        magnitude = abs(losses[i].item()) + 1e-3
        size = {"none": 1.0, "l2": 1.0, "loss": magnitude, "loss+": magnitude}[mode]
        expected = gradients[i] / size / (gradients[i].norm() if mode in ("l2", "loss+") else 1.0)
        row = gradient.normalise_gramian(gradients @ gradients.T, losses, mode)[i, i]
        torch.testing.assert_close(row, expected @ expected)
    normalised = gradient.normalise_gramian(gradients @ gradients.T, losses, mode)
    assert torch.linalg.eigvalsh(normalised).min() > 0
    torch.testing.assert_close(normalised, normalised.T)


def test_l2_normalisation_gives_every_objective_an_equal_say():
    gradients = torch.tensor([[1e4, 0.0], [0.0, 1e-4]])
    gramian = gradients @ gradients.T
    raw = gradient.min_norm_weights(gramian)
    unit = gradient.min_norm_weights(gradient.normalise_gramian(gramian, torch.ones(2), "l2"))
    assert raw[1] > 0.999
    torch.testing.assert_close(unit, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("mode", gradient.NORMALISATIONS)
def test_normalisation_survives_vanishing_gradients_and_losses(mode):
    gradients = GRADIENTS["one zero"]((3, 5), 0)
    gramian = gradient.normalise_gramian(gradients @ gradients.T, torch.tensor([0.0, -1.0, 0.0]), mode)
    assert bool(gramian.isfinite().all())
    assert gradient.min_norm_weights(gramian).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("method", "target"), [(gradient.MGDA, "parameters"), (gradient.MGDAUB, "hidden")])
def test_each_method_asks_for_its_own_gradients(method, target):
    gradients = {"parameters": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "hidden": torch.tensor([[3.0], [-1.0]])}
    asked = []

    def gramian(target="parameters"):
        asked.append(target)
        return gradients[target] @ gradients[target].T

    solver = method([1.0, 1.0])
    weights = solver.on_losses(torch.tensor([0.3, -0.1]), gramian)
    assert asked == [target]
    torch.testing.assert_close(
        weights, {"parameters": torch.tensor([0.8, 0.2]), "hidden": torch.tensor([0.25, 0.75])}[target]
    )
    assert torch.equal(solver.latest_weights, weights)


def test_noon_is_off_unless_asked_for():
    advantages, mask = torch.tensor([[[1.0, -1.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert gradient.MGDA([1.0]).on_advantages(advantages, mask).tolist() == [[[1.0, -1.0]]]
    assert gradient.MGDAUB([1.0], noon=True).on_advantages(advantages, mask).tolist() == [[[1.0, 0.0]]]


def test_unknown_normalisations_are_refused():
    with pytest.raises(UserError, match="l3"):
        gradient.MGDA([1.0, 1.0], normalisation="l3")
    with pytest.raises(UserError, match="l3"):
        gradient.normalise_gramian(torch.eye(2), torch.ones(2), "l3")
