"""Losses over valid tokens, divided by a global token count: losses of micro-batches and ranks add up.

Legend: K objectives or channels, B responses, T response tokens; masks are True on the tokens the policy chose.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.rl.masks import masked_variance


def clipped_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "*lead B T"],
    mask: Bool[Tensor, "B T"],
    clip: float,
    *,
    token_count: Tensor | int | None = None,
) -> Float[Tensor, "*lead"]:
    """PPO's clipped objective, negated (Schulman et al. 2017, equation 7); one loss per leading index of `advantages`.

    L = −Σ_t min(u_t A_t, clip(u_t, 1−ε, 1+ε) A_t) / token_count,  u_t = exp(log π_θ − log π_old)

    Args:
        log_probs: of the chosen tokens under the policy being trained.
        old_log_probs: of the same tokens under the policy that sampled them.
        advantages: treated as constants; they should not require gradients.
        mask: True on valid tokens.
        clip: ε of the ratio.
        token_count: valid tokens of the whole mini-batch, if this is a part of it; default: those of `mask`.

    Returns:
        The loss; 0, still connected to `log_probs`, if no token is valid.
    """
    ratio = torch.where(mask, log_probs - old_log_probs, 0).exp()
    advantages = torch.where(mask, advantages, 0)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -surrogate.sum((-2, -1)) / _divisor(mask, token_count)


def clipped_value_loss(
    values: Float[Tensor, "K B T"],
    old_values: Float[Tensor, "K B T"],
    returns: Float[Tensor, "K B T"],
    mask: Bool[Tensor, "B T"],
    clip: float | None,
    token_count: Tensor | int | None = None,
) -> Float[Tensor, " K"]:
    """Squared error of each value head, clipped as in PPO's public code.

    L = ½ Σ_t max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²) / token_count

    With `clip` None: L = ½ Σ_t (V − R)² / token_count. `token_count` is as in `clipped_surrogate`.
    """
    errors = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (clipped - returns).square())
    return 0.5 * torch.where(mask, errors, 0).sum((-2, -1)) / _divisor(mask, token_count)


def explained_variance(
    values: Float[Tensor, "K B T"], returns: Float[Tensor, "K B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " K"]:
    """Explained variance of each value head, 1 − Var(R − V) / Var(R) over valid tokens; 0 where returns do not vary."""
    total = masked_variance(returns, mask, (-2, -1))
    residual = masked_variance(returns - values, mask, (-2, -1))
    return torch.where(total > 0, 1 - residual / total, 0)


def _divisor(mask: Bool[Tensor, "B T"], token_count: Tensor | int | None) -> Tensor | int:
    return mask.sum().clamp(min=1) if token_count is None else token_count
