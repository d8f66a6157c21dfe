"""Advantages from scores, for each objective, over valid tokens only.

Legend: N objectives, B responses, T response tokens; masks are True on tokens the policy chose, padded on the right.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.rl.masks import last_token, masked_mean, masked_variance


def token_rewards(
    scores: Float[Tensor, "N B"], kl_penalty: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "N B T"]:
    """Rewards per token: the score at the last token, minus the KL penalty at every token; zero off the mask.

    rⁱ_t = Rⁱ [t is the last token] − kl_penalty_t

    Args:
        scores: one reward per objective and response.
        kl_penalty: β times the KL estimate of each token.
        response_mask: True on valid tokens; a response without any gets no reward.
    """
    positions = torch.arange(response_mask.shape[1], device=response_mask.device)
    is_last = (positions == last_token(response_mask)[:, None]) & response_mask
    return torch.where(is_last, scores[:, :, None], 0) - torch.where(response_mask, kl_penalty, 0)


def gae(
    rewards: Float[Tensor, "*lead B T"],
    values: Float[Tensor, "*lead B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "*lead B T"]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16); the value after the last token is 0.

    δ_t = r_t + γ V_{t+1} − V_t;  A_t = δ_t + γλ A_{t+1}

    Returns:
        Advantages, zero off the mask; advantages + values are the returns.
    """
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[..., 0])
    for t in reversed(range(mask.shape[1])):
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        next_advantage = delta + gamma * lam * next_advantage
        next_value = values[..., t]
        advantages[..., t] = next_advantage
    return torch.where(mask, advantages, 0)


def center_and_scale(advantages: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead B T"]:
    """Whitened advantages: (A − Ā) / σ over each objective's valid tokens.

    Zero where an objective's advantages do not vary, and off the mask.
    """
    centred = torch.where(mask, advantages - _token_mean(advantages, mask), 0)
    return centred * _inverse_deviation(advantages, mask)


def scale_about_mean(advantages: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead B T"]:
    """Advantages of unit deviation that keep their mean: (A − Ā) / σ + Ā over each objective's valid tokens.

    Ā where an objective's advantages do not vary; zero off the mask.
    """
    return torch.where(mask, center_and_scale(advantages, mask) + _token_mean(advantages, mask), 0)


def leave_one_out(rewards: Float[Tensor, "N B"], group_size: int) -> Float[Tensor, "N B"]:
    """Each reward minus the mean of the others in its group (RLOO, Ahmadian et al. 2024).

    Groups are consecutive responses; a group of one gives 0.

    Raises:
        UserError: if the number of responses is not a multiple of the group size.
    """
    groups = _grouped(rewards, group_size)
    if group_size == 1:
        return torch.zeros_like(rewards)
    others = (groups.sum(-1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten(1)


def group_standardise(rewards: Float[Tensor, "N B"], group_size: int) -> Float[Tensor, "N B"]:
    """Rewards standardised within each group: (R − R̄) / s, s the sample deviation (GRPO, Shao et al. 2024).

    Groups are consecutive responses; a group of one, or one whose rewards do not vary, gives 0.

    Raises:
        UserError: if the number of responses is not a multiple of the group size.
    """
    groups = _grouped(rewards, group_size)
    if group_size == 1:
        return torch.zeros_like(rewards)
    centred = groups - groups.mean(-1, keepdim=True)
    deviation = (centred.square().sum(-1, keepdim=True) / (group_size - 1)).sqrt()
    return (centred * _inverse(deviation, groups.abs().amax(-1, keepdim=True))).flatten(1)


def broadcast_to_tokens(values: Float[Tensor, "N B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "N B T"]:
    """Each response's value on all its valid tokens; zeros on padding."""
    return torch.where(mask, values[:, :, None], 0)


def _grouped(rewards: Float[Tensor, "N B"], group_size: int) -> Float[Tensor, "N G S"]:
    if group_size < 1 or rewards.shape[1] % group_size != 0:
        raise UserError(
            f"{rewards.shape[1]} responses cannot be split into groups of {group_size}.",
            "Let the batch size be a multiple of the group size.",
        )
    return rewards.reshape(len(rewards), -1, group_size)


def _token_mean(values: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead 1 1"]:
    return masked_mean(values, mask, (-2, -1))[..., None, None]


def _inverse_deviation(values: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead 1 1"]:
    deviation = masked_variance(values, mask, (-2, -1)).sqrt()[..., None, None]
    return _inverse(deviation, torch.where(mask, values, 0).abs().amax((-2, -1), keepdim=True))


def _inverse(deviation: Float[Tensor, "*shape"], magnitude: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1/σ; 0 where σ is no larger than the rounding error of values of this magnitude."""
    varies = deviation > 10 * torch.finfo(deviation.dtype).eps * magnitude
    return torch.where(varies, 1 / torch.where(varies, deviation, 1), 0)
