"""Critic-free methods that standardise each reward within the responses to one prompt and then combine the rewards.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.solvers.annealing import Annealed
from pama_exp.solvers.solver import Solver

STANDARDISED = ("group/standardise",)


class GDPO(Solver):
    """Rewards standardised separately within each group, then added: their spreads do not matter.

    Rule: A = whiten(Σ wⁱ Zⁱ), Zⁱ = rⁱ standardised over the responses to the same prompt.
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
        epsilon: added to the deviation of the sum before dividing by it; TRL adds 1e-4.

    Raises:
        UserError: for a negative or infinite epsilon.
    """

    estimators = STANDARDISED
    takes_preferences = True

    @checked("solver")
    def __init__(
        self, weights: Sequence[float], whiten: bool = True, epsilon: Annotated[float, Range(least=0)] = 0.0
    ) -> None:
        super().__init__(weights)
        self.whiten, self.epsilon = whiten, epsilon

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        combined = self.weighted_sum(advantages)
        return (whiten_responses(combined, response_mask, self.epsilon) if self.whiten else combined)[None]


class RVPO(Solver):
    """A soft minimum of the standardised rewards: a response counts by its worst objective.

    Rule: A = whiten(−(1/k) log Σ wⁱ exp(−k Zⁱ)); k → 0 is GDPO's Σ wⁱ Zⁱ, k → ∞ the minimum over i. k grows in a
        straight line over the run.
    Cost: one backward pass; no critic.
    State: the number of steps, which sets k.
    Scale: invariant.
    Weights: simplex.
    Stays: no. Without whitening the soft minimum has a mean below 0 that varies with the spread of the answers.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2605.05750, the soft minimum (with equal weights the sum is the paper's mean), whitened over the
        batch, k from 0.5 to 2. There the KL term is in the loss: training.kl.placement=loss.
    Use: where no objective may be sacrificed, and a critic is not wanted; the nearest relative of PAMA with Noon.

    Args:
        weights: w, one per objective.
        k: how much the worst objective counts at the first step, not negative; 0 is the weighted mean.
        k_end: k after `anneal_steps`; null: k is constant.
        anneal_steps: steps over which k changes; by default all steps of the run.
        whiten: centre and scale the result over the batch's responses.

    Raises:
        UserError: for a setting outside its range.
    """

    estimators = STANDARDISED
    takes_preferences = True

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        k: Annotated[float, Range(least=0)] = 1.0,
        whiten: bool = False,
        k_end: Annotated[float, Range(least=0)] | None = None,
        anneal_steps: Annotated[int, Range(least=1)] = 1,
    ) -> None:
        super().__init__(weights)
        self.k = Annealed(k, k_end, anneal_steps)
        self.whiten = whiten

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        weights, k = self.weights_of(advantages), self.k.advance()
        if bool(response_mask.any()):
            self.latest_weights = (weights.log() - k * advantages).softmax(0)[:, response_mask].mean(1)
        if k == 0:
            combined = (weights * advantages).sum(0)
        else:
            # Σ wⁱ exp(−k Zⁱ) differs from 1 by little where k is small, which the logarithm of a sum would round off.
            advantages = torch.where(weights > 0, advantages, torch.inf)  # the least one has a weight
            low = advantages.amin(0)
            combined = low - torch.log1p((weights * torch.expm1(-k * (advantages - low))).sum(0)) / k
        return (whiten_responses(combined, response_mask) if self.whiten else combined)[None]

    def state_dict(self) -> dict[str, Any]:
        """The state to save: the number of steps."""
        return {"steps": self.k.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.k.steps = state["steps"]


def whiten_responses(
    values: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"], epsilon: float = 0.0
) -> Float[Tensor, "B T"]:
    """Values whitened over responses: (A − Ā) / (s + epsilon), with mean and sample deviation of the responses' means.

    Zero everywhere if the means do not vary, and off the mask.
    """
    counted = response_mask.any(1)
    means = (torch.where(response_mask, values, 0).sum(1) / response_mask.sum(1).clamp(min=1))[counted]
    if len(means) < 2:
        return torch.zeros_like(values)
    deviation = means.std()
    rounding = 10 * torch.finfo(values.dtype).eps * means.abs().max()
    if not bool(deviation > rounding):
        return torch.zeros_like(values)
    return torch.where(response_mask, (values - means.mean()) / (deviation + epsilon), 0)
