"""The losses against a PPO loss written token by token, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from pama_exp.rl import losses
from samplers import ADVANTAGES, ragged_mask


def policies(responses: int, tokens: int, seed: int, spread: float = 0.5):
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(responses, tokens, generator=generator, dtype=torch.float64)
    move = spread * torch.randn(responses, tokens, generator=generator, dtype=torch.float64)
    return (old + move).requires_grad_(), old


def assert_is_ppo(seed: int, clip: float, responses: int = 5, tokens: int = 7) -> None:
    mask = ragged_mask(responses, tokens, seed)
    log_probs, old = policies(responses, tokens, seed)
    advantages = ADVANTAGES["normal"]((responses, tokens), seed).double()
    expected = oracles.ppo_loss(log_probs, old, advantages, mask, clip)
    found = losses.clipped_surrogate(log_probs, old, advantages, mask, clip)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    gradients = [torch.autograd.grad(loss, log_probs)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


def test_surrogate_is_ppos_in_value_and_gradient():
    for seed in range(5):
        assert_is_ppo(seed, clip=0.2)


@given(st.integers(0, 10_000), st.floats(0.01, 0.9), st.integers(1, 4), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_surrogate_is_ppos_for_any_clip_and_shape(seed, clip, responses, tokens):
    assert_is_ppo(seed, clip, responses, tokens)


def test_surrogate_cuts_the_gradient_exactly_where_the_clip_binds():
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 1.0]])
    log_probs = ratios.log().requires_grad_()
    mask = torch.ones(1, 5, dtype=torch.bool)
    losses.clipped_surrogate(log_probs, torch.zeros(1, 5), advantages, mask, 0.2).backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[0.0, -0.1, 0.3, 0.0, -0.22]]))


def test_at_ratio_one_the_gradient_is_minus_the_advantage():
    mask, advantages = ragged_mask(4, 6), ADVANTAGES["normal"]((4, 6), 0)
    old = torch.randn(4, 6)
    log_probs = old.clone().requires_grad_()
    losses.clipped_surrogate(log_probs, old, advantages, mask, 0.2).backward()
    torch.testing.assert_close(log_probs.grad, -advantages * mask / mask.sum())


def test_one_loss_per_objective():
    log_probs, old = policies(5, 7, 0)
    advantages, mask = ADVANTAGES["normal"]((3, 5, 7), 0).double(), ragged_mask(5, 7)
    found = losses.clipped_surrogate(log_probs, old, advantages, mask, 0.2)
    for i in range(3):
        torch.testing.assert_close(found[i], losses.clipped_surrogate(log_probs, old, advantages[i], mask, 0.2))


def test_padding_has_no_effect_on_loss_or_gradient():
    mask = ragged_mask(5, 7)
    log_probs, old = policies(5, 7, 1)
    advantages = ADVANTAGES["normal"]((5, 7), 0).double()
    (clean,) = torch.autograd.grad(losses.clipped_surrogate(log_probs, old, advantages, mask, 0.2), log_probs)
    for garbage in (50.0, float("nan"), float("inf")):
        dirty = torch.where(mask, log_probs.detach(), garbage).requires_grad_()
        loss = losses.clipped_surrogate(dirty, old, torch.where(mask, advantages, garbage), mask, 0.2)
        (gradient,) = torch.autograd.grad(loss, dirty)
        torch.testing.assert_close(gradient, clean)


def test_micro_batches_add_up_to_the_mini_batch():
    mask = ragged_mask(6, 7)
    log_probs, old = policies(6, 7, 2)
    advantages = ADVANTAGES["normal"]((2, 6, 7), 0).double()
    whole = losses.clipped_surrogate(log_probs, old, advantages, mask, 0.2)
    values, returns = ADVANTAGES["normal"]((2, 6, 7), 3), ADVANTAGES["normal"]((2, 6, 7), 4)
    whole_value = losses.clipped_value_loss(values, values + 0.3, returns, mask, 0.2)
    count, parts, value_parts = mask.sum(), torch.zeros(2, dtype=torch.float64), torch.zeros(2)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        parts = parts + losses.clipped_surrogate(
            log_probs[rows], old[rows], advantages[:, rows], mask[rows], 0.2, token_count=count
        )
        value_parts = value_parts + losses.clipped_value_loss(
            values[:, rows], values[:, rows] + 0.3, returns[:, rows], mask[rows], 0.2, token_count=count
        )
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(value_parts, whole_value)


def test_without_valid_tokens_the_loss_is_zero_and_has_a_gradient():
    log_probs, old = policies(2, 3, 0)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss = losses.clipped_surrogate(log_probs, old, torch.ones(2, 3), mask, 0.2)
    loss.backward()
    assert loss.item() == 0
    assert log_probs.grad is not None
    assert log_probs.grad.abs().sum().item() == 0


def test_value_loss_is_half_the_worse_of_two_squared_errors():
    mask = torch.tensor([[True, True, True, False]])
    values = torch.tensor([[[1.0, 0.1, -2.0, 9.0]]])
    old, returns = torch.zeros(1, 1, 4), torch.tensor([[[2.0, 1.0, -3.0, 0.0]]])
    # moves of +1 and −2 are held to ±0.2, which is further from their returns; 0.1 is within
    expected = 0.5 * (1.8**2 + 0.9**2 + 2.8**2) / 3
    assert losses.clipped_value_loss(values, old, returns, mask, 0.2).item() == pytest.approx(expected)
    plain = 0.5 * (1.0 + 0.9**2 + 1.0) / 3
    assert losses.clipped_value_loss(values, old, returns, mask, None).item() == pytest.approx(plain)


def test_value_loss_stops_pushing_beyond_the_clip():
    values = torch.tensor([[[1.0, 0.1]]], requires_grad=True)
    zeros, returns = torch.zeros(1, 1, 2), torch.full((1, 1, 2), 5.0)
    losses.clipped_value_loss(values, zeros, returns, torch.ones(1, 2, dtype=torch.bool), 0.2).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[[0.0, -2.45]]]))


def test_explained_variance():
    mask = ragged_mask(6, 5)
    returns, noise = ADVANTAGES["normal"]((3, 6, 5), 0), ADVANTAGES["normal"]((3, 6, 5), 1)
    values = torch.stack([returns[0], torch.zeros(6, 5), returns[2] + noise[2]])
    found = losses.explained_variance(torch.where(mask, values, float("nan")), returns, mask)
    expected = 1 - noise[2][mask].var() / returns[2][mask].var()
    torch.testing.assert_close(
        found, torch.stack([torch.tensor(1.0), torch.tensor(0.0), expected]), atol=1e-5, rtol=1e-5
    )
    assert losses.explained_variance(values, torch.full_like(returns, 2.0), mask).tolist() == [0.0, 0.0, 0.0]
