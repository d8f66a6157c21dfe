"""Methods that scalarise a response's rewards by their distance from an ideal point, before advantages are estimated.

The distance is taken once per response. Per token it would act as a penalty on length.

Legend: N objectives, B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError
from pama_exp.solvers.solver import Solver


class Tchebycheff(Solver):
    """The largest weighted distance from an ideal point, over the objectives, negated as the reward.

    Rule: r = −maxᵢ wⁱ (zⁱ − rⁱ) + ρ Σ wⁱ rⁱ, once per response; one advantage is estimated from r.
    Cost: one backward pass; one value head.
    State: the ideal point z, the best reward of each objective among the starting policy's responses, then frozen.
    Scale: equivariant.
    Weights: simplex.
    Stays: own.
    Advantage: any.
    Source: Steuer & Choo 1983, the augmented weighted Tchebycheff programme.
    Use: to reach points of a front that no linear weights reach; sweep the weights to trace it. With ρ > 0 weakly
        optimal points are avoided.

    Args:
        weights: w, one per objective; a larger weight brings that objective nearer to its ideal.
        rho: ρ of the augmentation, not negative; 0.05 is usual, 0 the plain method.
        ideal: z in the units of the normalised rewards; taken from calibration if None.

    Raises:
        UserError: for a negative rho or an ideal point of another length.
    """

    takes_preferences = True
    checkpointed = ("ideal",)

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        rho: Annotated[float, Range(least=0)] = 0.0,
        ideal: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weights)
        self.rho = rho
        self.ideal = _ideal_point(ideal, len(self.weights))
        self.needs_calibration = ideal is None

    @property
    def num_channels(self) -> int:
        """1: the rewards are scalarised before advantages are estimated."""
        return 1

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set z to the best rewards of the starting policy's responses, unless it is a setting."""
        if self.needs_calibration:
            self.ideal = rewards.amax(1).cpu()

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "1 B"]:
        """The scalarised reward; a single objective's reward is returned unchanged."""
        if len(rewards) == 1:
            return rewards
        weights = self.weights_of(rewards)
        shortfall = self._shortfall(rewards)
        self.latest_weights = _shares((shortfall == shortfall.amax(0)).to(rewards), weights)
        return (-shortfall.amax(0) + self.rho * (weights * rewards).sum(0))[None]

    def _shortfall(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """Weighted distances from the ideal point, wⁱ (zⁱ − rⁱ)."""
        assert self.ideal is not None, "calibrate has not been called"
        return self.weights_of(rewards) * (self.ideal.to(rewards)[:, None] - rewards)


class SmoothTchebycheff(Tchebycheff):
    """Tchebycheff with a soft maximum: not only the farthest objective counts.

    Rule: r = −μ log Σᵢ exp(wⁱ (zⁱ − rⁱ) / μ), once per response; μ → 0 is Tchebycheff.
    Cost: one backward pass; one value head.
    State: the ideal point z, frozen after calibration.
    Scale: neither. μ is in the units of the weighted rewards.
    Weights: simplex.
    Stays: own.
    Advantage: any.
    Source: Lin et al. 2024, arXiv 2402.19078, the smooth Tchebycheff scalarization.
    Use: where Tchebycheff's switching between objectives makes the reward noisy.

    Args:
        weights: w, one per objective.
        mu: μ > 0, in the units of wⁱ (zⁱ − rⁱ).
        ideal: z in the units of the normalised rewards; taken from calibration if None.

    Raises:
        UserError: for a mu that is not positive or an ideal point of another length.
    """

    @checked("solver")
    def __init__(
        self, weights: Sequence[float], mu: Annotated[float, Range(above=0)] = 0.1, ideal: Sequence[float] | None = None
    ) -> None:
        super().__init__(weights, ideal=ideal)
        self.mu = mu

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "1 B"]:
        """The scalarised reward; a single objective's reward is returned unchanged."""
        if len(rewards) == 1:
            return rewards
        exponents = self._shortfall(rewards) / self.mu
        self.latest_weights = _shares(exponents.softmax(0), self.weights_of(rewards))
        return (-self.mu * exponents.logsumexp(0))[None]


def _shares(counts: Float[Tensor, "N B"], weights: Float[Tensor, "N _"]) -> Float[Tensor, " N"]:
    """The slopes ∂r/∂rⁱ, averaged over the responses and scaled to sum to 1."""
    slopes = (weights * counts / counts.sum(0)).mean(1)
    return slopes / slopes.sum() if bool(slopes.sum() > 0) else weights.mean(1)


def _ideal_point(ideal: Sequence[float] | None, count: int) -> Float[Tensor, " N"] | None:
    if ideal is None:
        return None
    if len(ideal) != count:
        raise UserError(
            f"solver.ideal={list(ideal)} has {len(ideal)} values for {count} objectives.", "Give one per objective."
        )
    return torch.tensor(list(ideal), dtype=torch.float32)
