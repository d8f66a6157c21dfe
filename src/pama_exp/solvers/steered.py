"""Gradient methods that follow a preference, or split by whether objectives agree.

Legend: N losses, one per objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torchjd import aggregation

from pama_exp.config.ranges import Range, Seed, checked
from pama_exp.solvers.gradient import min_norm_weights
from pama_exp.solvers.solver import Solver
from pama_exp.solvers.weighted import Weighted

_TINY = 1e-12
_ITERATIONS = 100  # each solves for p, then for t; the error falls by a factor


@checked("solver")
def orpg(
    weights: Sequence[float],
    q: Annotated[float, Range(least=0)] = 0.5,
    blend: Annotated[float, Range(least=0, most=1)] = 0.25,
    seed: Seed = 0,
) -> Weighted:
    """Where gradients agree, their sum is rotated slightly towards the larger one; where they conflict, PCGrad.

    Rule: with cos(g¹, g²) = c ≥ 0: S = ‖Σ gⁱ‖, b = S v/‖v‖, v = Σ ‖gⁱ‖^q gⁱ/‖gⁱ‖, z = (1 − λc) Σ gⁱ + λc b, and the
        update is S z/‖z‖, divided by N; with c < 0 it is PCGrad's. With more than two objectives c is the mean cosine
        of all pairs, and any pair that conflicts makes it PCGrad.
    Cost: one backward pass per objective and one for the update.
    State: the number of calls, which with the seed determines PCGrad's order of projections.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every, with two objectives.
    Advantage: any.
    Source: the 2026 paper ORPG, its rule for two objectives without a declared primary, q = 0.5, λ = 0.25; more than
        two are this project's extension.
    Use: as gradient surgery that also acts where gradients agree.

    Args:
        weights: only their number is used.
        q: the power of the norms; 1 is the sum itself, 0 unit gradients.
        blend: λ in [0, 1]; 0 is the sum where gradients agree.
        seed: of the order of projections.

    Raises:
        UserError: for a value outside its range.
    """
    return Weighted(weights, _Orthogonal(q, blend), "mean", seed)


class _Orthogonal:
    def __init__(self, q: float, blend: float) -> None:
        self.q, self.blend, self.surgery = q, blend, aggregation.PCGradWeighting()

    def __call__(self, gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
        exact = gramian.double()
        norms = exact.diagonal().clamp(min=0).sqrt()
        safe = torch.where(norms > 0, norms, 1)
        cosines = exact / safe[:, None] / safe[None, :]
        pairs = cosines[~torch.eye(len(exact), dtype=torch.bool)]
        if bool((pairs < 0).any()):
            weights: Tensor = self.surgery(gramian)
            return weights
        alpha = self.blend * pairs.mean().clamp(max=1)
        stronger = torch.where(norms > 0, safe ** (self.q - 1), 0)
        size, plain = _norm(exact, torch.ones_like(norms)), torch.ones_like(norms)
        rotated = (1 - alpha) * plain + alpha * size / _norm(exact, stronger).clamp(min=_TINY) * stronger
        return (rotated * size / _norm(exact, rotated).clamp(min=_TINY)).to(gramian)


@checked("solver")
def raco(weights: Sequence[float], c: Annotated[float, Range(least=0)] = 0.4) -> Weighted:
    """CAGrad around the weighted mean gradient; the correction gives no objective more weight than its preference.

    Rule: g = g₀ + c ‖g₀‖ G/‖G‖, g₀ = Σ wⁱ gⁱ, G = Σ min(pⁱ, wⁱ) gⁱ, p = argmin over the simplex of
        ⟨Σ pⁱ gⁱ, g₀⟩ + c ‖g₀‖ ‖Σ pⁱ gⁱ‖, which is CAGrad's; the weights are scaled to sum to 1.
    Cost: one backward pass per objective, one for the update, and a small convex programme.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: own. It converges to the minimum of the weighted loss, for c < 1.
    Advantage: any.
    Source: arXiv 2602.02495 (ICML 2026), the clipped correction of conflict-averse gradients, from a summary of it;
        CAGrad is Liu et al. 2021.
    Use: in place of CAGrad where objectives are not equally preferred.

    Args:
        weights: the preference w.
        c: the radius around g₀; 0 is g₀.

    Raises:
        UserError: for a negative radius.
    """
    return Weighted(weights, _clipped(Solver(weights).weights.double(), c), "sum")


def _clipped(preference: Float[Tensor, " N"], c: float) -> Callable[[Tensor], Tensor]:
    def weigh(gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
        exact = gramian.double()
        radius = c * _norm(exact, preference)
        p = conflict_averse(exact, preference, float(radius))
        correction = torch.minimum(p, preference)
        length = _norm(exact, correction)
        # A correction of 0 has no direction.
        factor = radius / length if bool(length > 1e-6 * exact.diagonal().max().clamp(min=0).sqrt()) else 0.0
        return (preference + factor * correction).to(gramian)

    return weigh


def conflict_averse(gramian: Float[Tensor, "N N"], toward: Float[Tensor, " N"], radius: float) -> Float[Tensor, " N"]:
    """CAGrad's weights: argmin_p ⟨Σ pⁱ gⁱ, g₀⟩ + radius ‖Σ pⁱ gⁱ‖ over the simplex, g₀ = Σ towardⁱ gⁱ, in float64.

    ‖x‖ is the minimum of (‖x‖²/t + t)/2 over t, at t = ‖x‖: the problem is convex in (p, t). For a fixed t it is the
    min-norm problem of the gⁱ + (t/radius) g₀. The loop solves for p and t alternately.
    """
    size = gramian.diagonal().max().clamp(min=_TINY)
    exact, ones = gramian / size, torch.ones_like(toward)
    reach = radius / float(size) ** 0.5
    inner = exact @ toward
    cross, square = inner[:, None] + inner[None, :], toward @ inner
    p = ones / len(ones)
    if reach <= 0:
        at_least = (inner == inner.min()).to(inner)
        return at_least / at_least.sum()
    length = float(_norm(exact, p))
    for _ in range(_ITERATIONS):
        step = length / reach
        p = min_norm_weights(exact + step * cross + step**2 * square)
        previous, length = length, float(_norm(exact, p))
        if abs(length - previous) <= 1e-9 * previous:
            break
    return p


def _norm(gramian: Float[Tensor, "N N"], weights: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    return (weights @ gramian @ weights).clamp(min=0).sqrt()
