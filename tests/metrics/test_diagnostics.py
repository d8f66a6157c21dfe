import math

import numpy as np
import pytest
import torch

from pama_exp.metrics import diagnostics
from rounding import rounding
from samplers import ADVANTAGES, GRADIENTS, ragged_mask


def test_binding_share_counts_the_least_noon_advantage_and_splits_ties():
    advantages = torch.tensor([[[1.0, 3.0, -1.0, -9.0]], [[2.0, 1.0, -2.0, 9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    # token 1: first; token 2: second; token 3: both clipped to 0, so a tie
    torch.testing.assert_close(diagnostics.binding_share(advantages, mask), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(diagnostics.binding_share(advantages, ~mask), torch.tensor([1.0, 0.0]))
    assert diagnostics.binding_share(advantages, torch.zeros_like(mask)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_binding_shares_sum_to_one(kind):
    share = diagnostics.binding_share(ADVANTAGES[kind]((4, 6, 5), 0), ragged_mask(6, 5))
    assert share.sum().item() == pytest.approx(1, abs=rounding(share.dtype, 4 * 6 * 5), rel=0)


def test_cosines_are_those_of_the_gradients():
    gradients = GRADIENTS["mixed scale"]((3, 8), 0)
    expected = torch.nn.functional.cosine_similarity(
        gradients[:, None].double(), gradients[None].double(), dim=-1, eps=1e-30
    )
    torch.testing.assert_close(
        diagnostics.gradient_cosines(gradients @ gradients.T).double(), expected, atol=1e-5, rtol=0
    )


def test_cosines_with_a_vanishing_gradient_are_zero():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert diagnostics.gradient_cosines(gradients @ gradients.T).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_stationarity_residual_is_the_norm_of_the_combined_gradient():
    gradients, weights = GRADIENTS["normal"]((3, 8), 0), torch.tensor([0.2, 0.3, 0.5])
    residual = diagnostics.stationarity_residual(gradients @ gradients.T, weights)
    torch.testing.assert_close(residual, (weights @ gradients).norm())
    opposite = GRADIENTS["opposite"]((2, 8), 0)
    assert diagnostics.stationarity_residual(opposite @ opposite.T, torch.tensor([0.5, 0.5])).item() == pytest.approx(
        0, abs=1e-3
    )


def test_covariance_is_numpys_over_responses_that_have_tokens():
    mask = ragged_mask(6, 5)  # the last response is empty
    rewards, combined = ADVANTAGES["normal"]((3, 6), 0), ADVANTAGES["normal"]((6, 5), 1)
    signal = [combined[b][mask[b]].mean().item() for b in range(5)]
    expected = [np.cov(rewards[i, :5].numpy(), signal, bias=True)[0, 1] for i in range(3)]
    found = diagnostics.reward_signal_covariance(rewards, torch.where(mask, combined, float("nan")), mask)
    off = rounding(torch.float32, 5 + 3 * 5, rewards.abs().max().item() * max(map(abs, signal)))
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=off, rtol=0)
    none = diagnostics.reward_signal_covariance(rewards, combined, torch.zeros_like(mask))
    assert none.tolist() == [0.0, 0.0, 0.0]


def test_clip_fraction_is_where_the_gradient_of_the_surrogate_is_cut_off():
    mask, old = ragged_mask(6, 9), torch.zeros(6, 9)
    log_probs = (0.4 * ADVANTAGES["normal"]((6, 9), 0)).requires_grad_()
    advantages = ADVANTAGES["normal"]((2, 6, 9), 1)
    ratio = (log_probs - old).exp()
    expected = []
    for i in range(2):
        surrogate = torch.minimum(ratio * advantages[i], ratio.clamp(0.8, 1.2) * advantages[i])
        (gradient,) = torch.autograd.grad(surrogate.sum(), log_probs, retain_graph=True)
        expected.append((gradient == 0)[mask].float().mean().item())
    found = diagnostics.clip_fraction(log_probs.detach(), old, advantages, mask, 0.2)
    assert found.tolist() == pytest.approx(expected)
    assert min(expected) > 0.1


def test_clip_fraction_depends_on_the_sign_of_each_advantage():
    log_probs, old = torch.tensor([[math.log(1.5), math.log(0.5)]]), torch.zeros(1, 2)
    advantages = torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]], [[1.0, -1.0]], [[-1.0, 1.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert diagnostics.clip_fraction(log_probs, old, advantages, mask, 0.2).tolist() == [0.5, 0.5, 1.0, 0.0]


def test_the_explained_share_is_the_squared_correlation_over_valid_tokens():
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    cause = torch.randn(6, 5, generator=generator)
    advantages = torch.stack(
        [0.5 * cause + torch.randn(6, 5, generator=generator), -3.0 * cause + 1.0, cause * 0 + 2.0]
    )
    found = diagnostics.explained_share(torch.where(mask, advantages, 1e6), cause, mask)
    expected = np.corrcoef(advantages[0][mask].numpy(), cause[mask].numpy())[0, 1] ** 2
    assert found.tolist() == pytest.approx([expected, 1.0, 0.0], abs=1e-5)
    assert diagnostics.explained_share(advantages, cause, torch.zeros_like(mask)).tolist() == [0.0, 0.0, 0.0]
