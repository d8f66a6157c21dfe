"""Gradient methods that remove conflicts between gradients; most are torchjd's.

Legend: N losses, one per objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torchjd import aggregation

from pama_exp.config.ranges import Range, Seed, checked
from pama_exp.solvers.solver import Solver
from pama_exp.solvers.weighted import Weighted, with_extra


@checked("solver")
def pcgrad(weights: Sequence[float], seed: Seed = 0) -> Weighted:
    """Each gradient is projected onto the normal plane of those it conflicts with, in random order; then the mean.

    Rule: gⁱ ← gⁱ − (⟨gⁱ, gʲ⟩ / ‖gʲ‖²) gʲ for every j with ⟨gⁱ, gʲ⟩ < 0; the update is their mean.
    Cost: one backward pass per objective and one for the update.
    State: the number of calls, which with the seed determines the order of projections.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every, with two objectives; with more, not where conflicts are not pairwise.
    Advantage: any.
    Source: Yu et al. 2020, arXiv 2001.06782, algorithm 1 (there the sum); torchjd PCGradWeighting.
    Use: as the usual baseline of gradient surgery. With more than two objectives the result depends on a random order.

    Args:
        weights: only their number is used.
        seed: of the order of projections.
    """
    return Weighted(weights, aggregation.PCGradWeighting(), "mean", seed)


@checked("solver")
def gradvac(weights: Sequence[float], beta: Annotated[float, Range(least=0, most=1)] = 0.5, seed: Seed = 0) -> Weighted:
    """PCGrad towards a cosine that is learned for every pair, rather than towards 0.

    Rule: where cos(gⁱ, gʲ) < φᵢⱼ, gⁱ ← gⁱ + a gʲ with a such that the cosine becomes φᵢⱼ; φ is a moving average of the
        cosines met; the update is the mean.
    Cost: one backward pass per objective and one for the update.
    State: φ and the number of calls.
    Scale: equivariant.
    Weights: non-negative.
    Stays: no. The learned cosines keep changing.
    Advantage: any.
    Source: Wang et al. 2021, arXiv 2010.05874, algorithm 1 (there the sum); torchjd GradVacWeighting.
    Use: where gradients are mostly aligned and PCGrad would not act.

    Args:
        weights: only their number is used.
        beta: how much the latest cosine counts in the moving average, in [0, 1]; 0 is PCGrad.
        seed: of the order of corrections.

    Raises:
        UserError: for a beta outside [0, 1].
    """
    return Weighted(weights, aggregation.GradVacWeighting(beta), "mean", seed)


@checked("solver")
def cagrad(weights: Sequence[float], c: Annotated[float, Range(least=0)] = 0.4) -> Weighted:
    """The direction near the mean gradient that improves the worst objective most.

    Rule: max_d minᵢ ⟨gⁱ, d⟩ subject to ‖d − ḡ‖ ≤ c ‖ḡ‖, ḡ the mean gradient; c = 0 is the mean, c → ∞ MGDA's direction.
    Cost: one backward pass per objective, one for the update, and a small cone programme.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: own, for c < 1: it converges to a minimum of the mean loss.
    Advantage: any.
    Source: Liu et al. 2021, arXiv 2110.14048, algorithm 1; torchjd CAGradWeighting.
    Use: as a middle way between equal weights and MGDA.

    Args:
        weights: only their number is used.
        c: the radius, not negative.

    Raises:
        UserError: for a negative c, or without the packages of the extra `solvers`.
    """
    return Weighted(weights, with_extra("cagrad", lambda: aggregation.CAGradWeighting(c=c)))


def upgrad(weights: Sequence[float]) -> Weighted:
    """Each gradient is projected onto the cone of directions that harm no objective; then the weighted mean.

    Rule: Σ pⁱ π(gⁱ), π the projection onto {d: ⟨d, gʲ⟩ ≥ 0 for every j}.
    Cost: one backward pass per objective, one for the update, and N small quadratic programmes.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every.
    Advantage: any.
    Source: Quinton & Rey 2024, arXiv 2406.16232, the projections of equation 3, averaged; torchjd UPGradWeighting.
    Use: where no objective may get worse, to first order, and MGDA is too slow.

    Args:
        weights: the preference p over the projected gradients.

    Raises:
        UserError: without the packages of the extra `solvers`.
    """
    preference = Solver(weights).weights
    return Weighted(weights, with_extra("upgrad", lambda: aggregation.UPGradWeighting(preference)))


def dualproj(weights: Sequence[float]) -> Weighted:
    """The weighted mean gradient, projected onto the cone of directions that harm no objective.

    Rule: π(Σ pⁱ gⁱ), π the projection onto {d: ⟨d, gʲ⟩ ≥ 0 for every j}.
    Cost: one backward pass per objective, one for the update, and a small quadratic programme.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every.
    Advantage: any.
    Source: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equation 11; torchjd DualProjWeighting.
    Use: linear weights with a guarantee, to first order, that no objective gets worse.

    Args:
        weights: the preference p.

    Raises:
        UserError: without the packages of the extra `solvers`.
    """
    preference = Solver(weights).weights
    return Weighted(weights, with_extra("dualproj", lambda: aggregation.DualProjWeighting(preference)))


def config(weights: Sequence[float]) -> Weighted:
    """A direction with a chosen positive cosine to every gradient: conflict-free by construction.

    Rule: d = Uᵀ (U Uᵀ)⁺ p, U the unit gradients; the update is (mean ⟨gⁱ, d̂⟩) d̂, d̂ = d / ‖d‖.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction.
    Weights: real. A weight may be negative.
    Stays: no. Where unit gradients are dependent the pseudo-inverse gives a direction all the same.
    Advantage: any.
    Source: Liu et al. 2024, arXiv 2408.11104, equation 2 (there the sum for the mean). torchjd's needs the gradients
        themselves; here the same from their Gramian.
    Use: where gradients differ in size and conflict mildly.

    Args:
        weights: the cosines' proportions p.
    """
    preference = Solver(weights).weights
    return Weighted(weights, lambda gramian: conflict_free_weights(gramian, preference))


def conflict_free_weights(gramian: Float[Tensor, "N N"], preference: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The weights w of ConFIG from the Gramian; a gradient of 0 gets no weight.

    Σ wⁱ gⁱ = (mean ⟨gⁱ, d̂⟩) d̂,  d = Σ xⁱ uⁱ,  x = C⁺ p, with C the cosines and uⁱ the unit gradients
    """
    norms = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    cosines = gramian * inverse[:, None] * inverse[None, :]
    coordinates = torch.linalg.pinv(cosines, hermitian=True, rtol=_rank_tolerance(cosines)) @ preference.to(gramian)
    length = (coordinates @ cosines @ coordinates).clamp(min=0).sqrt()
    if not bool(length > 0):
        return torch.zeros_like(preference)
    mean = (norms * (cosines @ coordinates)).mean() / length
    weights: Tensor = mean / length * coordinates * inverse
    return weights


def _rank_tolerance(matrix: Float[Tensor, "N N"]) -> float:
    return 10 * len(matrix) * torch.finfo(matrix.dtype).eps
