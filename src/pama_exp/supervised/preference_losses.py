"""Losses of preference pairs whose rewards are implicit in the policy: DPO and MODPO.

Legend: B pairs, T response tokens, N objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def implicit_rewards(
    log_probs: Float[Tensor, "B T"], reference_log_probs: Float[Tensor, "B T"], beta: float
) -> Float[Tensor, " B"]:
    """β log (π(y|x) / π_ref(y|x)): the reward for which the policy is optimal (Rafailov et al. 2023, eq. 5).

    Both log-probabilities are zero on padding.
    """
    return beta * (log_probs - reference_log_probs).sum(-1)


def margins(
    chosen: Float[Tensor, "N B"], rejected: Float[Tensor, "N B"], weights: Sequence[float]
) -> Float[Tensor, " B"]:
    """Σ wⁱ (rⁱ(x, y₊) − rⁱ(x, y₋)): the weighted reward differences of the other objectives; zeros without any."""
    return torch.einsum("n,nb->b", torch.tensor(list(weights)).to(chosen), chosen - rejected)


def preference_logits(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], margin: Float[Tensor, " B"], weight: float
) -> Float[Tensor, " B"]:
    """(r(x, y₊) − r(x, y₋) − margin) / w, where r are implicit rewards and w is the weight of the pairs' objective.

    With w = 1 and no margin this is DPO, else MODPO (Zhou et al. 2024, arXiv 2310.03708, eq. 10): the policy's reward
    is the weighted sum over all objectives, and the margin is the other objectives' part of its difference.
    """
    return (chosen - rejected - margin) / weight


def pair_loss(logits: Float[Tensor, " B"], label_smoothing: float = 0.0) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(z) − ε log σ(−z), which assumes that a share ε of the labels is swapped (Mitchell 2023)."""
    return -(1 - label_smoothing) * functional.logsigmoid(logits) - label_smoothing * functional.logsigmoid(-logits)
