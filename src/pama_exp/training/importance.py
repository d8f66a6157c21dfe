"""Correction of differences between the sampling engine's and the trainer's log-probabilities.

Legend: B responses, T response tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.rl.masks import masked_mean


def correction(
    log_probs: Float[Tensor, "B T"],
    engine_log_probs: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    cap: float | None,
) -> tuple[Float[Tensor, "B T"], dict[str, float]]:
    """Truncated importance weights min(π / μ, cap) of π, the trainer's policy, against μ, the engine's.

    Multiplying an advantage by a positive weight multiplies its clipped surrogate by it. Without a cap the weights are
    1, and the difference is only measured.

    Returns:
        The weights, and metrics: KL(μ‖π) per token by r − 1 − log r with r = π / μ, the largest |log r|, and with a cap
        the share of truncated tokens.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    log_ratio = torch.where(response_mask, log_probs - engine_log_probs, 0)
    metrics = {
        "rollout/mismatch_kl": masked_mean(log_ratio.exp() - 1 - log_ratio, response_mask).item(),
        "rollout/mismatch_max": log_ratio.abs().max().item(),
    }
    if cap is None:
        return torch.ones_like(log_ratio), metrics
    metrics["rollout/importance_truncated"] = masked_mean((log_ratio.exp() > cap).to(log_ratio), response_mask).item()
    return log_ratio.exp().clamp(max=cap), metrics
