"""Diagnostics that are the same for every solver: binding objectives, gradient conflict, covariance with the signal.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def binding_share(advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " N"]:
    """Share of valid tokens on which each objective's Noon advantage max(Aⁱ, 0) is the smallest.

    Ties are split equally: the shares sum to 1. All are 0 if no token is valid.
    """
    positive = advantages.clamp(min=0)
    binds = (positive == positive.amin(0)).to(advantages)
    return _token_mean(binds / binds.sum(0), response_mask)


def gradient_cosines(gramian: Float[Tensor, "N N"]) -> Float[Tensor, "N N"]:
    """Cosines of the gradients from their Gramian, Gᵢⱼ / (‖gⁱ‖ ‖gʲ‖); 0 where either gradient is zero."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    return (gramian * inverse[:, None] * inverse[None, :]).clamp(-1, 1)


def stationarity_residual(gramian: Float[Tensor, "N N"], weights: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Norm of the combined gradient, ‖Σ wⁱ gⁱ‖ = √(wᵀGw); 0 at a Pareto stationary point under min-norm weights."""
    return (weights @ gramian @ weights).clamp(min=0).sqrt()


def reward_signal_covariance(
    rewards: Float[Tensor, "N B"], combined: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " N"]:
    """Covariance, over responses, of each reward with the mean over tokens of the combined advantage.

    A negative value says that the update works against that reward. Responses without a valid token are left out.
    """
    counted = response_mask.any(1)
    signal = (torch.where(response_mask, combined, 0).sum(1) / response_mask.sum(1).clamp(min=1))[counted]
    rewards, count = rewards[:, counted], counted.sum().clamp(min=1)
    centred = rewards - rewards.sum(1, keepdim=True) / count
    return centred @ signal / count  # centring one side is enough


def explained_share(
    advantages: Float[Tensor, "N B T"], cause: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " N"]:
    """Share of each objective's advantage variance that `cause` explains: their squared correlation over valid tokens.

    In [0, 1] and independent of scale; 0 where the advantages or the cause do not vary.
    """
    x, y = advantages[:, response_mask].double(), cause[response_mask].double()
    if y.numel() == 0:
        return advantages.new_zeros(len(advantages))
    x, y = x - x.mean(1, keepdim=True), y - y.mean()
    size = x.square().sum(1) * y.square().sum()
    return torch.where(size > 0, (x @ y).square() / torch.where(size > 0, size, 1), 0).clamp(0, 1).to(advantages)


def clip_fraction(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "N B T"],
    response_mask: Bool[Tensor, "B T"],
    clip: float,
) -> Float[Tensor, " N"]:
    """Share of valid tokens at which PPO's clip cuts off the gradient of each objective's surrogate.

    There clip(u, 1−ε, 1+ε) Aⁱ < u Aⁱ, with u = exp(log π_θ − log π_old).
    """
    ratio = torch.where(response_mask, log_probs - old_log_probs, 0).exp()
    cut_off = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    return _token_mean(cut_off.to(advantages), response_mask)


def _token_mean(values: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " N"]:
    return torch.where(response_mask, values, 0).sum((1, 2)) / response_mask.sum().clamp(min=1)
