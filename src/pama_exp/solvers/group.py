"""Critic-free methods that standardise each reward among the answers to one prompt before the rewards are combined.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.solvers.solver import Solver

STANDARDISED = ("group/standardise",)


class GDPO(Solver):
    """Rewards standardised one by one within the group, then added: no reward drowns another by its spread.

    Rule: A = whiten(Σ wⁱ Zⁱ), Zⁱ = rⁱ standardised among the answers to the same prompt.
    Cost: one backward pass; no critic.
    State: none.
    Scale: invariant.
    Weights: simplex.
    Stays: own.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2601.05242, decoupled normalisation and the batch-wise one after it. There the KL term is in the loss:
        training.kl.placement=loss (with estimator=k2 or k3).
    Use: as the linear baseline of group-relative training; GRPO on a weighted sum is solver=linear solver.space=reward.

    Args:
        weights: w, one per objective.
        whiten: centre and scale the sum over the batch's responses, as the paper does.
    """

    estimators = STANDARDISED
    takes_preferences = True

    def __init__(self, weights: Sequence[float], whiten: bool = True) -> None:
        super().__init__(weights)
        self.whiten = whiten

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        combined = self.weighted_sum(advantages)
        return (whiten_responses(combined, response_mask) if self.whiten else combined)[None]


class RVPO(Solver):
    """A soft minimum of the standardised rewards: a response is as good as its worst objective makes it.

    Rule: A = −(1/k) log Σ wⁱ exp(−k Zⁱ); k → 0 is GDPO's Σ wⁱ Zⁱ, k → ∞ the minimum over i.
    Cost: one backward pass; no critic.
    State: none.
    Scale: invariant.
    Weights: simplex.
    Stays: no. The minimum of standardised rewards has a mean below 0 that varies with the spread of the answers.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2605.05750, the soft minimum; with equal weights the sum is the paper's mean.
    Use: where no objective may be sacrificed, and a critic is not wanted; the nearest relative of PAMA with Noon.

    Args:
        weights: w, one per objective.
        k: how much the worst objective counts, not negative; 0 is the weighted mean.
        whiten: centre and scale the result over the batch's responses.

    Raises:
        UserError: for a negative or infinite k.
    """

    estimators = STANDARDISED
    takes_preferences = True

    def __init__(self, weights: Sequence[float], k: float = 1.0, whiten: bool = False) -> None:
        super().__init__(weights)
        if not 0 <= k < float("inf"):
            raise UserError(f"solver.k={k}.", "0 is the weighted mean; the larger, the nearer to the minimum.")
        self.k, self.whiten = k, whiten

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        weights = self.weights_of(advantages)
        if bool(response_mask.any()):
            self.latest_weights = (weights.log() - self.k * advantages).softmax(0)[:, response_mask].mean(1)
        if self.k == 0:
            combined = (weights * advantages).sum(0)
        else:
            # Σ wⁱ exp(−k Zⁱ) differs from 1 by little where k is small, which the logarithm of a sum would round off.
            advantages = torch.where(weights > 0, advantages, torch.inf)  # what has no weight is not the least one
            low = advantages.amin(0)
            combined = low - torch.log1p((weights * torch.expm1(-self.k * (advantages - low))).sum(0)) / self.k
        return (whiten_responses(combined, response_mask) if self.whiten else combined)[None]


def whiten_responses(values: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """(A − Ā) / σ, the mean and deviation being those of the responses' means; 0 where they do not vary."""
    counted = response_mask.any(1)
    means = (torch.where(response_mask, values, 0).sum(1) / response_mask.sum(1).clamp(min=1))[counted]
    if len(means) == 0:
        return torch.zeros_like(values)
    deviation = means.std(correction=0)
    rounding = 10 * torch.finfo(values.dtype).eps * means.abs().max()
    if not bool(deviation > rounding):
        return torch.zeros_like(values)
    return torch.where(response_mask, (values - means.mean()) / deviation, 0)
