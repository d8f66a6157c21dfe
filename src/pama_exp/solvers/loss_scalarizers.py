"""Loss scalarizers of torchjd, each as a solver.

They are defined for positive losses, but a clipped surrogate is near 0 at each rollout's start and has either sign.
Their input is instead the positive loss of `Gap`: the remaining share of the distance to a frozen ideal point. The
scalarizer's derivatives there are the weights of the surrogates, which estimate the gradients of those losses.

Legend: N objectives, B responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchjd import scalarization

from pama_exp.config.ranges import Range, checked
from pama_exp.solvers.ideal_gap import Gap
from pama_exp.solvers.solver import Gramian, Solver
from pama_exp.solvers.weighted import load_module_state, module_state


class Scalarized(Solver):
    """Weights ∂S/∂ℓⁱ of a scalarizer S at the losses ℓ of `Gap`, scaled so that their magnitudes sum to 1.

    Args:
        weights: one per objective, applied until the first step has been observed.
        scalarizer: a torchjd scalarizer.
        learn: updates the scalarizer; called with it and a step's losses before these are scalarised, from step 2 on.
    """

    needs_calibration = True

    def __init__(
        self, weights: Sequence[float], scalarizer: Any, learn: Callable[[Any, Tensor], None] | None = None
    ) -> None:
        super().__init__(weights)
        self.scalarizer, self.learn = scalarizer, learn
        self.gap = Gap(len(self.weights))
        self.steps = 0

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the ideal point and the starting point from the starting policy's scores."""
        self.gap.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Compute the weights of this step from each objective's distance to its ideal."""
        self.gap.observe(scores)
        losses = self.gap.values()
        if self.learn is not None and self.steps > 0:
            self.learn(self.scalarizer, losses)
        self.steps += 1
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self.scalarizer(losses.requires_grad_()), losses)
        total = slopes.abs().sum()
        self.latest_weights = slopes / total if bool(total > 0) else self.weights

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """The weights computed by `observe`."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        return self.latest_weights.to(losses)

    def state_dict(self) -> dict[str, Any]:
        """The state to save: scalarizer, ideal point and latest weights."""
        return {
            "scalarizer": module_state(self.scalarizer),
            "gap": self.gap.state_dict(),
            "steps": self.steps,
            "latest_weights": self.latest_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        load_module_state(self.scalarizer, state["scalarizer"])
        self.gap.load_state_dict(state["gap"])
        self.steps, self.latest_weights = state["steps"], state["latest_weights"]


@checked("solver")
def famo(
    weights: Sequence[float],
    learning_rate: Annotated[float, Range(least=0)] = 0.025,
    weight_decay: Annotated[float, Range(least=0)] = 1e-3,
) -> Scalarized:
    """Weights that learn to bring all losses down at the same rate, from the losses' values alone.

    Rule: S = c Σ zⁱ log ℓⁱ, z = softmax(ξ), 1/c = Σ zⁱ/ℓⁱ; ξ takes an Adam step against ∇_ξ Σ zⁱ (log ℓⁱ before −
        log ℓⁱ after).
    Cost: one backward pass.
    State: ξ, its Adam state, the losses before; the ideal point.
    Scale: neither. The weights follow the scores' history, not the gradients.
    Weights: simplex.
    Stays: no. The weights follow the rates.
    Advantage: any.
    Source: Liu et al. 2023, arXiv 2306.03792, algorithm 1; torchjd FAMO. Uses the positive losses of `Gap`: before
        and after are consecutive steps, not two passes over one batch.
    Use: for many objectives, where a Gramian is too expensive.

    Args:
        weights: only their number is used.
        learning_rate: of Adam on ξ.
        weight_decay: of Adam on ξ.
    """
    count = len(Solver(weights).weights)
    scalarizer = scalarization.FAMO(count, lr=learning_rate, weight_decay=weight_decay)
    return Scalarized(weights, scalarizer, lambda famo, losses: famo.update(losses))


@checked("solver")
def uw(weights: Sequence[float], learning_rate: Annotated[float, Range(least=0)] = 0.025) -> Scalarized:
    """Losses weighted by learned uncertainties: a loss that stays large loses weight.

    Rule: S = Σ ½ exp(−sⁱ) ℓⁱ + ½ sⁱ; s takes a gradient step per step.
    Cost: one backward pass.
    State: s; the ideal point.
    Scale: neither. The weights follow the scores' history, not the gradients.
    Weights: simplex.
    Stays: no. The weights follow the losses.
    Advantage: any.
    Source: Kendall et al. 2018, equation 7 with log variances; torchjd UW. Uses the positive losses of `Gap`.
    Use: as a baseline from multi-task learning; it favours objectives that are easy. IMTL-L is the same method.

    Args:
        weights: only their number is used.
        learning_rate: of s.
    """

    def learn(scalarizer: Any, losses: Tensor) -> None:
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(scalarizer(losses), scalarizer.log_var)
        with torch.no_grad():
            scalarizer.log_var -= learning_rate * slopes

    return Scalarized(weights, scalarization.UW(len(Solver(weights).weights)), learn)


@checked("solver")
def dwa(weights: Sequence[float], temperature: Annotated[float, Range(above=0)] = 2.0) -> Scalarized:
    """Losses weighted by how slowly they fell from one step to the next.

    Rule: w = softmax(ρ / T), ρⁱ = ℓⁱ(t − 1) / ℓⁱ(t − 2); equal until two steps have passed.
    Cost: one backward pass.
    State: the losses of the two steps before; the ideal point.
    Scale: neither. The weights follow the scores' history, not the gradients.
    Weights: simplex.
    Stays: no. The weights follow the rates.
    Advantage: any.
    Source: Liu et al. 2019, "End-to-End Multi-Task Learning with Attention", equation 7; torchjd DWA, a step for an
        epoch. Uses the positive losses of `Gap`.
    Use: as a baseline from multi-task learning.

    Args:
        weights: only their number is used.
        temperature: T > 0; larger is more uniform.

    Raises:
        UserError: for a temperature that is not positive.
    """
    return Scalarized(weights, scalarization.DWA(temperature), lambda dwa, _: dwa.step())


@checked("solver")
def stch(weights: Sequence[float], mu: Annotated[float, Range(above=0)] = 0.1) -> Scalarized:
    """Smooth Tchebycheff on the objectives' mean losses: the objective farthest from its ideal has the most weight.

    Rule: S = μ log Σ exp(wⁱ ℓⁱ / μ).
    Cost: one backward pass.
    State: the ideal point.
    Scale: neither. The weights follow the scores, not the gradients.
    Weights: simplex.
    Stays: no. The weights follow the losses.
    Advantage: any.
    Source: Lin et al. 2024, arXiv 2402.19078, the smooth Tchebycheff scalarization; torchjd STCH. Fed with the positive
        losses of `Gap`, so that the maximum is over the batch's means; solver=smooth-tchebycheff takes it in every
        response.
    Use: to reach points of a front that no linear weights reach, with little noise.

    Args:
        weights: w, one per objective.
        mu: μ > 0.

    Raises:
        UserError: for a mu that is not positive.
    """
    return Scalarized(weights, scalarization.STCH(mu, Solver(weights).weights))


def geometric_mean(weights: Sequence[float]) -> Scalarized:
    """The geometric mean of the losses: the objective nearest to its ideal has the most weight.

    Rule: S = (Π ℓⁱ)^(1/N), hence wⁱ ∝ 1 / ℓⁱ.
    Cost: one backward pass.
    State: the ideal point.
    Scale: neither. The weights follow the scores, not the gradients.
    Weights: simplex.
    Stays: no. The weights follow the losses.
    Advantage: any.
    Source: Chennupati et al. 2019, "MultiNet++", the geometric loss strategy; torchjd GeometricMean. Fed with the
        positive losses of `Gap`.
    Use: as a baseline from multi-task learning; it finishes one objective before the next.

    Args:
        weights: only their number is used.
    """
    return Scalarized(weights, scalarization.GeometricMean())


@checked("solver")
def pbi(weights: Sequence[float], theta: Annotated[float, Range(least=0)] = 5.0) -> Scalarized:
    """Distance along a direction of preference, and a penalty on the distance from it.

    Rule: S = d₁ + θ d₂, d₁ = ⟨ℓ, ŵ⟩, d₂ = ‖ℓ − d₁ ŵ‖.
    Cost: one backward pass.
    State: the ideal point.
    Scale: neither. The weights follow the scores, not the gradients.
    Weights: real. An objective that is ahead of the direction has a negative weight.
    Stays: no. The weights follow the losses.
    Advantage: any.
    Source: Zhang & Li 2007, MOEA/D, the PBI approach; torchjd PBI. Uses the positive losses of `Gap`.
    Use: to land on a chosen ray from the ideal point; large θ also holds objectives back.

    Args:
        weights: w, the proportions of the losses that are aimed at.
        theta: θ, not negative.

    Raises:
        UserError: for a negative theta.
    """
    return Scalarized(weights, scalarization.PBI(theta, Solver(weights).weights))


@checked("solver")
def cosmos(weights: Sequence[float], penalty: Annotated[float, Range(least=0)] = 1.0) -> Scalarized:
    """Linear weights, and a reward for losses in the proportions of the preference.

    Rule: S = Σ wⁱ ℓⁱ − λ cos(w, ℓ).
    Cost: one backward pass.
    State: the ideal point.
    Scale: neither. The weights follow the scores, not the gradients.
    Weights: real. An objective that is ahead of the direction may have a negative weight.
    Stays: no. The weights follow the losses.
    Advantage: any.
    Source: Ruchte & Grabocka 2021, arXiv 2103.13392, the scalarization with its cosine penalty; torchjd COSMOS. Fed
        with the positive losses of `Gap`; the paper also shows the preference to the model.
    Use: to spread the points of a sweep over the front.

    Args:
        weights: the preference w.
        penalty: λ, not negative; 0 is linear.

    Raises:
        UserError: for a negative penalty.
    """
    return Scalarized(weights, scalarization.COSMOS(penalty, Solver(weights).weights))
