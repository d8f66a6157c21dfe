"""Methods that weight losses by gradient norms and products, with weights that persist from update to update.

Legend: N losses, one per objective; B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.solvers.ideal_gap import Gap
from pama_exp.solvers.solver import Gramian, Solver, require_positive

# Differences of weighted norms below this share of their mean are rounding errors and do not change a weight.
NORM_TOLERANCE = 1e-5


class DynamicGradient(Solver):
    """Weights that grow multiplicatively with the products of an objective's gradient with all gradients.

    Rule: wʲ ∝ wʲ exp(η ⟨gʲ, Σₖ gᵏ⟩), once per optimiser update; products are divided by mean ‖gᵏ‖² with `relative`.
    Cost: one backward pass per objective and one for the update.
    State: log w.
    Scale: equivariant.
    Weights: simplex.
    Stays: no. Weights keep moving until one objective has them all.
    Advantage: any.
    Source: arXiv 2509.11452, gradient-based weight optimisation; η here is its η / μ, applied once.
    Use: to reproduce that paper. It favours objectives that agree with the rest; a conflicting minority loses weight.

    Args:
        weights: w at the start, all positive.
        step_size: η.
        relative: divide the products by the mean squared norm, so that η means the same for every model.

    Raises:
        UserError: for a weight of zero, or a setting outside its range.
    """

    checkpointed = ("log_weights",)

    @checked("solver")
    def __init__(
        self, weights: Sequence[float], step_size: Annotated[float, Range(least=0)] = 0.1, relative: bool = True
    ) -> None:
        super().__init__(weights)
        require_positive(weights, "the method multiplies weights, and 0 would stay 0")
        self.step_size, self.relative = step_size, relative
        self.log_weights = self.weights.double().log()

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """Update the weights by this update's gradient products; returns the new weights."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        products = gramian().detach().cpu().double()
        size = products.diagonal().mean() if self.relative else torch.ones((), dtype=torch.float64)
        if bool(size > 0):
            self.log_weights = (self.log_weights + self.step_size * products.sum(1) / size).log_softmax(0)
        self.latest_weights = self.log_weights.softmax(0).to(losses)
        return self.latest_weights


class GradNorm(Solver):
    """Weights under which objectives that lag behind have the larger weighted gradients.

    Rule: w ← w − η ∇_w Σ |wⁱ‖gⁱ‖ − Ḡ ρⁱ^α|, Ḡ = mean wⁱ‖gⁱ‖ held constant, ρⁱ = ℓⁱ / mean ℓ; w stays above a floor and
        sums to 1. Norms are divided by their mean.
    Cost: one backward pass per objective and one for the update.
    State: w; the ideal and the starting point of the rates.
    Scale: neither. The weights remember the norms they were moved by, and move by steps of one size.
    Weights: simplex.
    Stays: no. Weights are not those of the least norm.
    Advantage: any.
    Source: Chen et al. 2018, arXiv 1711.02257, equations 1 and 2. The rate ℓ is not a ratio of losses, as surrogates
        start at 0 and change sign, but the remaining share of the distance to the ideal point; see `Gap`.
    Use: to give every objective an equal share of the update whatever its gradient's size.

    Args:
        weights: w at the start.
        alpha: how strongly lagging objectives are favoured; 0 only balances norms.
        step_size: η.
        floor: the smallest weight before renormalisation.

    Raises:
        UserError: for a setting outside its range.
    """

    needs_calibration = True
    checkpointed = ("current", "gap")

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        alpha: Annotated[float, Range(least=0)] = 1.5,
        step_size: Annotated[float, Range(least=0)] = 0.025,
        floor: Annotated[float, Range(above=0, below=1)] = 0.01,
    ) -> None:
        super().__init__(weights)
        self.alpha, self.step_size, self.floor = alpha, step_size, floor
        self.current = self.weights.double()
        self.gap = Gap(len(self.weights))

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the ideal point and the starting point from the starting policy's scores."""
        self.gap.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Record the step's mean scores."""
        self.gap.observe(scores)

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """Update the weights by this update's gradient norms; returns the new weights."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        norms = gramian().detach().cpu().double().diagonal().clamp(min=0).sqrt()
        if bool(norms.mean() > 0):
            norms = norms / norms.mean()
            gap = self.gap.values().double()
            weighted = self.current * norms
            excess = weighted - weighted.mean() * (gap / gap.mean()) ** self.alpha
            sign = torch.where(excess.abs() > NORM_TOLERANCE * weighted.mean(), excess.sign(), 0)
            moved = (self.current - self.step_size * sign * norms).clamp(min=self.floor)
            self.current = moved / moved.sum()
        self.latest_weights = self.current.to(losses)
        return self.latest_weights
