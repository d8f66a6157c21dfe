"""Methods that weight losses by the geometry of their gradients, given by the Gramian G = g gᵀ.

Legend: N losses, one per objective; K channels, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, checked
from pama_exp.errors import UserError, suggest
from pama_exp.solvers.solver import Gramian, Solver

NORMALISATIONS = ("none", "l2", "loss", "loss+")
# A surrogate loss is near 0, with either sign, while the policy is near the sampling one. Below this magnitude its size
# means nothing, and such losses count as equally large.
LOSS_FLOOR = 1e-3
# Cosines of float32 gradients have rounding errors of about 1e-7; curvature below this floor is raised to it.
CURVATURE_FLOOR = 1e-10
OPTIMALITY_TOLERANCE = 1e-13


def min_norm_weights(gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    """Min-norm weights argmin_w wᵀGw over the simplex: the common descent direction of MGDA (Désidéri 2012).

    N = 2:  w¹ = clamp((G₂₂ − G₁₂) / (G₁₁ + G₂₂ − 2G₁₂), 0, 1)

    More objectives are solved by Wolfe's active-set algorithm (Wolfe 1976, "Finding the nearest point in a polytope"),
    in float64 on the CPU and at any scale of the gradients. Where the minimiser is not unique, as with identical
    gradients or gradients of 0, the weight is shared equally.
    """
    exact = gramian.detach().cpu().double()
    norms = exact.diagonal().clamp(min=0).sqrt()
    vanishing = norms == 0
    if bool(vanishing.any()):
        weights = vanishing / vanishing.sum()
    elif len(exact) == 2:
        weights = _closed_form_of_two(exact)
    else:
        weights = _wolfe(_positive_definite(exact / norms[:, None] / norms[None, :]), norms / norms.max())
    return weights.to(gramian)


def normalise_gramian(gramian: Float[Tensor, "N N"], losses: Float[Tensor, " N"], mode: str) -> Float[Tensor, "N N"]:
    """The Gramian of gradients that are divided by a size, which removes the objectives' scales.

    none: g;  l2: g/‖g‖;  loss: g/L;  loss+: g/(L‖g‖)  (the normalisers of Sener & Koltun 2018's public code)

    A clipped surrogate changes sign: L here is |L| + 1e-3. A gradient of 0 stays 0.

    Raises:
        UserError: for an unknown mode.
    """
    if mode not in NORMALISATIONS:
        raise UserError(f"solver.normalisation={mode} is not one of its values.", suggest(mode, NORMALISATIONS))
    sizes = torch.ones_like(losses)
    if mode in ("l2", "loss+"):
        norms = gramian.diagonal().clamp(min=0).sqrt()
        sizes = torch.where(norms > 0, norms, 1)
    if mode in ("loss", "loss+"):
        sizes = sizes * (losses.detach().abs() + LOSS_FLOOR)
    return gramian / sizes[:, None] / sizes[None, :]


class MGDA(Solver):
    """Multiple-gradient descent: the min-norm convex combination of the losses' gradients.

    Rule: w = argmin ‖Σ wⁱ gⁱ‖² over the simplex.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Désidéri 2012, C. R. Acad. Sci. Paris 350, theorem 2.2; normalisers of Sener & Koltun 2018.
    Use: as the gradient method that PAMA bounds. Small gradients decide, unless normalised.

    Args:
        weights: one per objective; the method itself has no preference and uses only their number.
        normalisation: none, l2, loss or loss+; see `normalise_gramian`.
        noon: clip each objective's advantages at 0 first.

    Raises:
        UserError: for an unknown normalisation.
    """

    target: Literal["parameters", "hidden"] = "parameters"

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        normalisation: Annotated[str, OneOf(*NORMALISATIONS)] = "none",
        noon: bool = False,
    ) -> None:
        super().__init__(weights)
        self.normalisation, self.noon = normalisation, noon

    def on_advantages(
        self, advantages: Float[Tensor, "K B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "K B T"]:
        """The advantages, clipped to max(Aⁱ, 0) with `noon`."""
        return advantages.clamp(min=0) if self.noon else advantages

    def on_losses(self, losses: Float[Tensor, " K"], gramian: Gramian) -> Float[Tensor, " K"]:
        """Min-norm weights of the (normalised) gradients, for the unscaled losses."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        weights = min_norm_weights(normalise_gramian(gramian(self.target), losses, self.normalisation)).to(losses)
        self.latest_weights = weights
        return weights


class MGDAUB(MGDA):
    """MGDA on the gradients with respect to the last hidden state that the objectives share.

    It minimises an upper bound of MGDA's objective, without one backward pass through the trunk per objective.

    Rule: w = argmin ‖Σ wⁱ ∂Lⁱ/∂h‖² over the simplex.
    Cost: one backward pass through the trunk, one through the head per objective.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Sener & Koltun 2018, arXiv 1810.04650, equation MGDA-UB.
    Use: as the paper's baseline, or for MGDA at a lower cost.

    Args:
        weights: one per objective; the method itself has no preference and uses only their number.
        normalisation: none, l2, loss or loss+; see `normalise_gramian`.
        noon: clip each objective's advantages at 0 first.
    """

    target: Literal["parameters", "hidden"] = "hidden"


def _closed_form_of_two(gramian: Float[Tensor, "2 2"]) -> Float[Tensor, " 2"]:
    first, second, cross = gramian[0, 0], gramian[1, 1], gramian[0, 1]
    distance = first + second - 2 * cross  # ‖g¹ − g²‖²
    if distance <= 0:
        return torch.full_like(gramian[0], 0.5)
    weight = ((second - cross) / distance).clamp(0, 1)
    return torch.stack([weight, 1 - weight])


def _positive_definite(cosines: Float[Tensor, "N N"]) -> Float[Tensor, "N N"]:
    """The cosines with eigenvalues raised to a floor.

    This makes the minimiser unique, and so equal for identical gradients, and removes the negative eigenvalues of
    float32 rounding. It costs at most the floor in the attained (relative, squared) norm.
    """
    eigenvalues, vectors = torch.linalg.eigh((cosines + cosines.T) / 2)
    raised: Tensor = vectors * eigenvalues.clamp(min=CURVATURE_FLOOR) @ vectors.T
    return raised


def _wolfe(cosines: Float[Tensor, "N N"], norms: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Wolfe's nearest-point algorithm for x = Σ wⁱ gⁱ, given cosines (positive definite) and ‖gⁱ‖.

    x is nearest to 0 exactly if ⟨x, gⁱ⟩ ≥ ‖x‖² for every i; a violated gⁱ joins the support, over whose affine hull x
    is then minimised, and an objective whose weight would turn negative leaves it.
    """
    count = len(norms)
    weights = torch.zeros_like(norms)
    weights[norms.argmin()] = 1
    for _ in range(100 * count):  # each pass shortens x; the bound guards against rounding alone
        lengths = weights * norms
        projections = cosines @ lengths  # ⟨x, gⁱ⟩ / ‖gⁱ‖
        slack = projections - (lengths @ projections) / norms
        slack[weights > 0] = 0
        entering = slack.argmin()
        if slack[entering] >= -OPTIMALITY_TOLERANCE * lengths.sum():
            break
        support = weights > 0
        support[entering] = True
        weights = _minimise_within(cosines, norms, weights, support)
    return weights


def _minimise_within(
    cosines: Float[Tensor, "N N"], norms: Float[Tensor, " N"], weights: Float[Tensor, " N"], support: Bool[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Move from `weights` towards the minimiser over the support's affine hull, dropping objectives that reach 0."""
    while True:
        # G_S u ∝ 1, in coordinates scaled by the norms, so that only the cosines' condition matters.
        inverse = 1 / norms[support]
        affine = torch.zeros_like(weights)
        affine[support] = torch.linalg.solve(cosines[support][:, support], inverse) * inverse
        affine = affine / affine.sum()
        leaving = support & (affine <= 0)
        if not bool(leaving.any()):
            return affine
        # The largest step that keeps every weight non-negative; the first weight to reach zero leaves.
        steps = torch.where(leaving & (weights > 0), weights / (weights - affine), torch.where(leaving, 0.0, torch.inf))
        first = steps.argmin()
        weights = (weights + steps[first] * (affine - weights)).clamp(min=0)
        weights[first] = 0
        support = support & (torch.arange(len(weights)) != first)
