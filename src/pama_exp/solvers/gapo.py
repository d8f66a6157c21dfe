"""Gradient-adaptive policy optimisation: min-norm and preference-weighted combinations of rescaled gradients.

Legend: N losses, one per objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, checked
from pama_exp.solvers.gradient import min_norm_weights
from pama_exp.solvers.solver import Gramian, Solver


class GAPO(Solver):
    """MGDA on gradients divided by a power of their norm, which keeps the smallest gradient from deciding alone.

    Rule: c = argmin ‖Σ cⁱ gⁱ / ‖gⁱ‖ᵖ‖² over the simplex; the update is Σ cⁱ gⁱ / ‖gⁱ‖ᵖ, its weights scaled to sum to 1.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction. With power 2 neither in theory, as ‖gⁱ‖² is not a unit; a common factor only scales the update.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Li et al. 2025, arXiv 2507.01915, the rescaled min-norm problem of GAPO.
    Use: where MGDA is held up by one objective with small gradients.

    Args:
        weights: only their number is used; P-GAPO takes preferences.
        power: p, 1 or 2.

    Raises:
        UserError: for another power.
    """

    @checked("solver")
    def __init__(self, weights: Sequence[float], power: Annotated[int, OneOf(1, 2)] = 1) -> None:
        super().__init__(weights)
        self.power = power

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """Weights of the unscaled losses, scaled to sum to 1."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        exact = gramian().detach().cpu().double()
        sizes = _norms(exact) ** self.power
        weights = min_norm_weights(exact / sizes[:, None] / sizes[None, :]) / sizes
        self.latest_weights = (weights / weights.sum()).to(losses)
        return self.latest_weights


class PGAPO(Solver):
    """The user's preference applied to unit gradients.

    Rule: the update is Σ pⁱ gⁱ / ‖gⁱ‖, its weights scaled to sum to 1.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction.
    Weights: simplex.
    Stays: no. It stays where the unit gradients balance by the preference.
    Advantage: any.
    Source: Li et al. 2025, arXiv 2507.01915, the preference-weighted variant.
    Use: to trace a front with preferences that do not depend on the gradients' sizes.

    Args:
        weights: the preference p.
    """

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """Weights of the unscaled losses, scaled to sum to 1."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        weights = self.weights.double() / _norms(gramian().detach().cpu().double())
        self.latest_weights = (weights / weights.sum()).to(losses)
        return self.latest_weights


def _norms(gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    """Gradient norms divided by the largest; 1 for a gradient of 0."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    return torch.where(norms > 0, norms / norms.max().clamp(min=torch.finfo(norms.dtype).tiny), 1)
