"""Theorem 1 against brute force and a QP solver; what granularity, Noon and preference do to it."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import oracles
from pama_exp.errors import UserError
from pama_exp.rl import losses
from pama_exp.solvers import pama
from rounding import rounding
from samplers import ADVANTAGES, ragged_mask

numbers = st.floats(-100, 100, allow_subnormal=False, width=32)
lines = st.lists(numbers, min_size=1, max_size=16)


def combination(values: torch.Tensor) -> float:
    return float((pama.min_norm_weights_on_line(values) * values).sum())


@given(lines)
@example([1.0] * 6)  # six weights of a sixth add up to a little less than 1
@settings(deadline=None)
def test_closed_form_is_the_least_magnitude_found_by_brute_force(values):
    values = torch.tensor(values, dtype=torch.float64)
    best = oracles.least_magnitude_on_simplex(values.numpy())
    spacing = float(values.max() - values.min()) / 2000
    off = rounding(values.dtype, len(values) + 2, float(values.abs().max()))  # the weights are sums and quotients
    assert abs(combination(values)) <= best + off
    assert abs(combination(values)) >= best - spacing - off
    assert combination(values) == pytest.approx(float(pama.s_star(values)), abs=off, rel=0)


@given(lines)
@settings(deadline=None)
def test_closed_form_agrees_with_a_quadratic_program(values):
    values = torch.tensor(values, dtype=torch.float64)
    scale = float(values.abs().max()) or 1.0
    unit = values.numpy() / scale
    by_qp = abs(float(oracles.min_norm_on_simplex_by_qp(np.outer(unit, unit)) @ unit))
    assert abs(combination(values)) / scale == pytest.approx(by_qp, abs=1e-5)  # √ridge is 3e-6


@given(lines)
@settings(deadline=None)
def test_weights_are_in_the_simplex_and_ties_share(values):
    values = torch.tensor(values)
    weights = pama.min_norm_weights_on_line(values)
    assert bool((weights >= 0).all())
    assert weights.sum().item() == pytest.approx(1, abs=rounding(weights.dtype, len(values) + 2), rel=0)
    for a in range(len(values)):
        for b in range(a):
            assert values[a] != values[b] or weights[a] == weights[b]


def test_theorem_one_by_cases():
    def weights(*values):
        return pama.min_norm_weights_on_line(torch.tensor(values)).tolist()

    assert weights(1.0, 2.0, 3.0) == [1, 0, 0]
    assert weights(-1.0, -2.0, -3.0) == [1, 0, 0]
    assert weights(-1.0, 0.5, 3.0) == [0.75, 0, 0.25]
    assert weights(0.0, 1.0, 0.0) == [0.5, 0, 0.5]
    assert weights(0.0, -1.0) == [1, 0]
    assert weights(0.0, 0.0, 0.0, 0.0) == [0.25] * 4
    assert weights(5.0) == [1]
    assert pama.s_star(torch.tensor([[1.0, -3.0, -1.0], [2.0, -1.0, 2.0]])).tolist() == [1, -1, 0]


def test_with_noon_each_token_uses_its_least_clipped_advantage():
    # two objectives: about a quarter of the tokens each where both are positive and where both are negative
    advantages, mask = ADVANTAGES["normal"]((2, 5, 7), 1), ragged_mask(5, 7)
    combined, _ = pama.combine(advantages, mask)
    expected = torch.where(mask, advantages.clamp(min=0).min(0).values, 0)
    torch.testing.assert_close(combined, expected)
    assert bool((combined > 0).any())


def test_without_noon_each_token_uses_the_projection_of_zero():
    advantages, mask = ADVANTAGES["normal"]((2, 5, 7), 1), ragged_mask(5, 7)
    combined, _ = pama.combine(advantages, mask, noon=False)
    expected = [[0.0] * 7 for _ in range(5)]
    for b, t in mask.nonzero().tolist():
        low, high = sorted(advantages[:, b, t].tolist())
        expected[b][t] = low if low > 0 else high if high < 0 else 0.0
    off = rounding(torch.float32, 4, advantages.abs().max().item())
    torch.testing.assert_close(combined, torch.tensor(expected), atol=off, rtol=0)
    assert bool((combined < 0).any())


@pytest.mark.parametrize("noon", [True, False])
def test_sequence_granularity_weighs_a_whole_response_by_its_mean(noon):
    advantages, mask = ADVANTAGES["normal"]((3, 6, 5), 2), ragged_mask(6, 5)
    combined, weights = pama.combine(advantages, mask, granularity="sequence", noon=noon)
    used = advantages.clamp(min=0) if noon else advantages
    for b in range(5):  # the last response is empty
        means = torch.stack([used[i, b][mask[b]].mean() for i in range(3)])
        expected = pama.min_norm_weights_on_line(means)
        torch.testing.assert_close(weights[:, b], expected[:, None].expand(3, 5), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(combined[b], (expected @ used[:, b]) * mask[b], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noon", [True, False])
def test_batch_granularity_has_one_set_of_weights_but_a_signal_per_token(noon):
    advantages, mask = ADVANTAGES["normal"]((3, 6, 5), 3), ragged_mask(6, 5)
    combined, weights = pama.combine(advantages, mask, granularity="batch", noon=noon)
    used = advantages.clamp(min=0) if noon else advantages
    means = torch.stack([used[i][mask].mean() for i in range(3)])
    expected = pama.min_norm_weights_on_line(means)
    torch.testing.assert_close(weights, expected[:, None, None].expand(3, 6, 5), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(combined, torch.einsum("n,nbt->bt", expected, used) * mask, atol=1e-5, rtol=1e-5)
    assert combined[mask].std() > 0.05


def test_whatever_stands_on_padding_has_no_effect():
    mask = ragged_mask(5, 7)
    clean = ADVANTAGES["normal"]((3, 5, 7), 4)
    for garbage in (1e6, float("nan"), -float("inf")):
        dirty = torch.where(mask, clean, garbage)
        for granularity in pama.GRANULARITIES:
            expected, _ = pama.combine(clean, mask, granularity=granularity)
            combined, weights = pama.combine(dirty, mask, granularity=granularity)
            assert torch.equal(combined, expected)
            assert bool((combined[~mask] == 0).all())
            torch.testing.assert_close(weights.sum(0), torch.ones(5, 7))


@pytest.mark.parametrize("noon", [True, False])
@pytest.mark.parametrize("granularity", pama.GRANULARITIES)
def test_a_uniform_preference_is_the_papers_method(granularity, noon):
    advantages, mask = ADVANTAGES["normal"]((3, 5, 7), 5), ragged_mask(5, 7)
    plain = pama.combine(advantages, mask, granularity=granularity, noon=noon)
    uniform = pama.combine(advantages, mask, granularity=granularity, noon=noon, preference=[1 / 3, 1 / 3, 1 / 3])
    assert torch.equal(plain[0], uniform[0])
    assert torch.equal(plain[1], uniform[1])


def test_preference_solves_over_scaled_advantages_and_weighs_unscaled_ones():
    advantages, mask = ADVANTAGES["normal"]((3, 5, 7), 6), ragged_mask(5, 7)
    preference = torch.tensor([0.2, 0.3, 0.5])
    for noon in (True, False):
        used = advantages.clamp(min=0) if noon else advantages
        combined, weights = pama.combine(advantages, mask, noon=noon, preference=preference)
        scaled = used / preference[:, None, None]
        torch.testing.assert_close((weights * scaled).sum(0)[mask], pama.s_star(scaled)[mask], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(combined, (weights * used).sum(0) * mask)


def test_a_preferred_objective_binds_more_often():
    advantages, mask = ADVANTAGES["all positive"]((2, 40, 10), 7), torch.ones(40, 10, dtype=torch.bool)
    mass = [pama.combine(advantages, mask, preference=[p, 1 - p])[1][0].mean().item() for p in (0.2, 0.5, 0.8)]
    assert mass[0] < mass[1] - 0.1 < mass[2] - 0.2


@pytest.mark.parametrize("preference", [[0.5, 0.5, 0.0], [0.6, 0.6, 0.6], [0.5, 0.5], [1.2, -0.1, -0.1]])
def test_a_preference_outside_the_simplex_is_refused(preference):
    with pytest.raises(UserError):
        pama.combine(torch.zeros(3, 1, 1), torch.ones(1, 1, dtype=torch.bool), preference=preference)


def test_an_unknown_granularity_is_refused():
    with pytest.raises(UserError, match="word"):
        pama.combine(torch.zeros(2, 1, 1), torch.ones(1, 1, dtype=torch.bool), granularity="word")


@pytest.mark.parametrize("granularity", pama.GRANULARITIES)
@pytest.mark.parametrize("noon", [True, False])
def test_gradient_is_that_of_the_weighted_losses_with_weights_held_fixed(noon, granularity):
    # Raw advantages differ in sign, and min does not distribute over them once the clip is active: stay inside it.
    spread = 0.6 if noon else 0.02
    torch.manual_seed(0)
    advantages, mask = 0.7 + torch.randn(3, 5, 7, dtype=torch.float64), ragged_mask(5, 7)
    old = -torch.rand(5, 7, dtype=torch.float64)
    log_probs = (old + spread * torch.randn_like(old)).requires_grad_()
    combined, weights = pama.combine(advantages, mask, granularity=granularity, noon=noon)
    (ours,) = torch.autograd.grad(losses.clipped_surrogate(log_probs, old, combined, mask, 0.2), log_probs)

    expected = torch.zeros_like(log_probs)
    for i in range(3):
        used = advantages[i].clamp(min=0) if noon else advantages[i]
        (gradient,) = torch.autograd.grad(oracles.ppo_loss(log_probs, old, used, mask, 0.2), log_probs)
        expected += weights[i] * gradient
    torch.testing.assert_close(ours, expected)
    assert bool((ours != 0).any())


def test_latest_weights_are_averages_over_valid_tokens():
    mask = torch.tensor([[True, True, True, False]])
    advantages = torch.tensor([[[1.0, 2.0, 5.0, 0.0]], [[2.0, 1.0, 7.0, 9.0]]])
    solver = pama.PAMA([1.0, 1.0])
    assert solver.on_advantages(advantages, mask).tolist() == [[[1.0, 1.0, 5.0, 0.0]]]
    torch.testing.assert_close(solver.latest_weights, torch.tensor([2 / 3, 1 / 3]))
    solver.on_advantages(advantages, torch.zeros_like(mask))
    torch.testing.assert_close(solver.latest_weights, torch.tensor([2 / 3, 1 / 3]))


@pytest.mark.parametrize("noon", [True, False])
@pytest.mark.parametrize("granularity", pama.GRANULARITIES)
def test_the_solver_applies_its_own_settings(granularity, noon):
    advantages, mask = 1.5 + ADVANTAGES["normal"]((3, 5, 7), 8), ragged_mask(5, 7)
    solver = pama.PAMA([2.0, 6.0, 12.0], granularity=granularity, noon=noon)
    expected, weights = pama.combine(advantages, mask, granularity=granularity, noon=noon, preference=[0.1, 0.3, 0.6])
    torch.testing.assert_close(solver.on_advantages(advantages, mask), expected[None])
    torch.testing.assert_close(solver.latest_weights, weights[:, mask].mean(1))
