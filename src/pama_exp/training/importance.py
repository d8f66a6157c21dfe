"""What to do where the engine that samples and the trainer that learns disagree on probabilities.

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

    A positive weight on an advantage is that weight on its clipped surrogate. Without a cap the weights are 1 and the
    difference is measured alone: KL(μ‖π) per token by r − 1 − log r with r = π / μ, and the largest |log r|.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    apart = torch.where(response_mask, log_probs - engine_log_probs, 0)
    metrics = {
        "rollout/mismatch_kl": masked_mean(apart.exp() - 1 - apart, response_mask).item(),
        "rollout/mismatch_max": apart.abs().max().item(),
    }
    if cap is None:
        return torch.ones_like(apart), metrics
    metrics["rollout/importance_truncated"] = masked_mean((apart.exp() > cap).to(apart), response_mask).item()
    return apart.exp().clamp(max=cap), metrics
