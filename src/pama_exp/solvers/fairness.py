"""Gradient methods that balance the gains of the objectives, and random weights as a baseline; through torchjd.

Legend: N losses, one per objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torchjd import aggregation

from pama_exp.config.ranges import OneOf, Range, Seed, checked
from pama_exp.solvers.gradient import min_norm_weights
from pama_exp.solvers.solver import Solver
from pama_exp.solvers.weighted import Weighted


@checked("solver")
def aligned_mtl(
    weights: Sequence[float], scale_mode: Annotated[str, OneOf("min", "median", "rmse")] = "min"
) -> Weighted:
    """The gradients are replaced by the nearest orthogonal ones of equal length; then the weighted mean.

    Rule: w = σ V Λ^(−1/2) Vᵀ p, G = V Λ Vᵀ, σ² the smallest (or median, or mean) eigenvalue that is not 0.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: equivariant.
    Weights: real. A weight may be negative.
    Stays: own. The direction of a combination that vanishes is left out, and the rest is not 0.
    Advantage: any.
    Source: Senushkin et al. 2023, algorithm 1; torchjd AlignedMTLWeighting.
    Use: where one objective dominates or gradients are nearly dependent.

    Args:
        weights: the preference p.
        scale_mode: which eigenvalue sets the length.

    Raises:
        UserError: for an unknown scale_mode.
    """
    return Weighted(weights, aggregation.AlignedMTLWeighting(Solver(weights).weights, scale_mode))


def imtl_g(weights: Sequence[float]) -> Weighted:
    """The combination that has the same projection onto every unit gradient.

    Rule: ⟨Σ wʲ gʲ, gⁱ / ‖gⁱ‖⟩ is the same for every i, Σ w = 1.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction.
    Weights: real. Weights may be negative, and large where gradients nearly oppose one another.
    Stays: no. Equal projections onto opposite gradients are 0 only if it vanishes, which its normalisation forbids.
    Advantage: any.
    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", the gradient balance; torchjd IMTLGWeighting.
    Use: as a comparison. Keep gradient clipping on, since the weights can be large.

    Args:
        weights: only their number is used.
    """
    return Weighted(weights, aggregation.IMTLGWeighting())


def nash_mtl(weights: Sequence[float]) -> Weighted:
    """The bargaining solution: the update whose gains, as products, no other direction of its length exceeds.

    Rule: G w = 1 / w, w > 0, scaled to sum to 1.
    Cost: one backward pass per objective, one for the update, and a small least-squares problem.
    State: none.
    Scale: direction.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Navon et al. 2022, arXiv 2202.01017, algorithm 1. Solved as FairGrad with α = 1, which is the same equation:
        torchjd's own NashMTL needs two more packages and keeps the solution of the step before.
    Use: where objectives differ in scale and none should be sacrificed.

    Args:
        weights: only their number is used.
    """
    return Weighted(weights, aggregation.FairGradWeighting(alpha=1.0), "sum")


@checked("solver")
def fairgrad(weights: Sequence[float], alpha: Annotated[float, Range(least=0)] = 2.0) -> Weighted:
    """Every objective's gain is set by α-fairness, from equal weights (0) by Nash (1) to the worst one's (∞).

    Rule: G w = w^(−1/α), w > 0, scaled to sum to 1; α = 0 is the mean.
    Cost: one backward pass per objective, one for the update, and a small least-squares problem.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: every, for α > 0.
    Advantage: any.
    Source: Ban & Ji 2024, arXiv 2402.15638, equation 4; torchjd FairGradWeighting.
    Use: to choose how much fairness matters.

    Args:
        weights: only their number is used.
        alpha: α, not negative.

    Raises:
        UserError: for a negative alpha.
    """
    return Weighted(weights, aggregation.FairGradWeighting(alpha=alpha), "sum")


@checked("solver")
def cr_mogm(weights: Sequence[float], alpha: Annotated[float, Range(least=0, most=1)] = 0.9) -> Weighted:
    """MGDA whose weights are smoothed from update to update.

    Rule: wₖ = α wₖ₋₁ + (1 − α) ŵₖ, ŵₖ the min-norm weights of the update's gradients, w₀ = ŵ₁.
    Cost: one backward pass per objective and one for the update.
    State: w.
    Scale: equivariant.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Zhou et al. 2022, "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond",
        the smoothed weights; torchjd CRMOGMWeighting around this project's exact min-norm.
    Use: in place of MGDA where mini-batches are small: smoothing undoes the bias of weights found on the same batch.

    Args:
        weights: only their number is used.
        alpha: α in [0, 1]; 0 is MGDA.

    Raises:
        UserError: for an alpha outside [0, 1].
    """
    return Weighted(weights, aggregation.CRMOGMWeighting(min_norm_weights, alpha))


@checked("solver")
def rgw(weights: Sequence[float], seed: Seed = 0) -> Weighted:
    """New random weights at every update: the baseline that any method should beat.

    Rule: w = softmax(ξ), ξ standard normal.
    Cost: one backward pass per objective and one for the update. The Gramian is computed although it is not needed.
    State: the number of calls, which with the seed determines the weights.
    Scale: equivariant.
    Weights: simplex.
    Stays: no.
    Advantage: any.
    Source: Lin et al. 2022, arXiv 2111.10603, algorithm 2; torchjd RandomWeighting.
    Use: as a sanity check of a comparison. In expectation it is linear with equal weights.

    Args:
        weights: only their number is used.
        seed: of the weights.
    """
    return Weighted(weights, aggregation.RandomWeighting(), seed=seed)
