"""Losses of preference pairs for a policy that is its own reward model: DPO and MODPO.

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
    """β log (π(y|x) / π_ref(y|x)): the reward that the policy would be optimal for (Rafailov et al. 2023, eq. 5).

    Both are zero on padding.
    """
    return beta * (log_probs - reference_log_probs).sum(-1)


def margins(
    chosen: Float[Tensor, "N B"], rejected: Float[Tensor, "N B"], weights: Sequence[float]
) -> Float[Tensor, " B"]:
    """Σ wⁱ (rⁱ(x, y₊) − rⁱ(x, y₋)): what the other objectives make of a pair; zeros where there are none."""
    return torch.einsum("n,nb->b", torch.tensor(list(weights)).to(chosen), chosen - rejected)


def preference_logits(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], margin: Float[Tensor, " B"], weight: float
) -> Float[Tensor, " B"]:
    """(r(x, y₊) − r(x, y₋) − margin) / w of the implicit rewards r, for the objective of weight w that pairs are of.

    With w = 1 and no margin these are DPO's; else MODPO's (Zhou et al. 2024, arXiv 2310.03708, eq. 10): the policy's
    reward is the weighted sum of all, of which the margin is the others' part.
    """
    return (chosen - rejected - margin) / weight


def pair_loss(logits: Float[Tensor, " B"], label_smoothing: float = 0.0) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(z) − ε log σ(−z): a share ε of the labels is taken to be swapped (Mitchell 2023)."""
    return -(1 - label_smoothing) * functional.logsigmoid(logits) - label_smoothing * functional.logsigmoid(-logits)
