"""PAMA: the min-norm combination of the objectives' advantages in closed form, at O(N) (He & Maghsudi 2025, Theorem 1).

Legend: N objectives, K = N channels, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, checked
from pama_exp.errors import UserError
from pama_exp.solvers.solver import Solver, require_positive

GRANULARITIES = ("token", "sequence", "batch")
Granularity = Annotated[str, OneOf(*GRANULARITIES)]


def s_star(values: Float[Tensor, " N *rest"]) -> Float[Tensor, "*rest"]:
    """The combination Σᵢ cⁱ Aⁱ of least magnitude over c in the simplex, in closed form (Theorem 1).

    s* = proj₀[minᵢ Aⁱ, maxᵢ Aⁱ]
    """
    low, high = values.amin(0), values.amax(0)
    return low.clamp(min=0) + high.clamp(max=0)


def min_norm_weights_on_line(values: Float[Tensor, " N *rest"]) -> Float[Tensor, " N *rest"]:
    """The weights c* in the simplex of the combination of least magnitude: Σᵢ c*ⁱ Aⁱ = s*.

    c* = h/(h+l) on argminᵢ Aⁱ and l/(h+l) on argmaxᵢ Aⁱ, where h = max(maxᵢ Aⁱ, 0) and l = max(−minᵢ Aⁱ, 0)

    If all Aⁱ are positive, l = 0 and the smallest has all the weight; if all are negative, h = 0 and the largest has.
    Objectives that tie share their weight equally.
    """
    low, high = values.amin(0), values.amax(0)
    above, below = high.clamp(min=0), (-low).clamp(min=0)
    straddle = above + below
    share_low = torch.where(straddle > 0, above / straddle, 1)  # straddle = 0: every value is 0, and all tie
    at_low, at_high = (values == low).to(values), (values == high).to(values)
    return share_low * at_low / at_low.sum(0) + (1 - share_low) * at_high / at_high.sum(0)


def weights_on_least(values: Float[Tensor, " N *rest"]) -> Float[Tensor, " N *rest"]:
    """`min_norm_weights_on_line` where no Aⁱ is negative, as with Noon PPO: the smallest share all the weight."""
    at_low = (values == values.amin(0)).to(values)
    return at_low / at_low.sum(0)


@checked("solver")
def combine(
    advantages: Float[Tensor, "N B T"],
    mask: Bool[Tensor, "B T"],
    *,
    granularity: Granularity = "token",
    noon: bool = True,
    preference: Float[Tensor, " N"] | Float[Tensor, "N B"] | Sequence[float] | None = None,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "N B T"]]:
    """PAMA's combined advantage A_t = Σᵢ c*ⁱ Aⁱ_t, and the weights c* of Theorem 1.

    Args:
        advantages: one per objective and token, not clipped.
        mask: True on the tokens the policy chose.
        granularity: the unit of one c*: `token`; `sequence`, from each response's mean over its tokens; `batch`, from
            the mean over all tokens.
        noon: first clip the advantages to max(Aⁱ, 0), as in Noon PPO. Without it, advantages on both sides of 0 cancel.
        preference: p, positive and summing to 1: c* is solved over Aⁱ/pⁱ, and a preferred objective binds more often.
            None: uniform, as in the paper. (N,B): one p per response, for granularity token or sequence.

    Returns:
        The combined advantage, zero off the mask, and c*, in the simplex everywhere.

    Raises:
        UserError: for an unknown granularity, or a preference outside the simplex's interior.
    """
    advantages = torch.where(mask, advantages.clamp(min=0) if noon else advantages, 0)
    values = advantages
    if preference is not None:
        values = advantages / _relative(preference, advantages.shape[:2]).to(advantages)[:, :, None]
    if granularity == "token":
        units = values
    elif granularity == "sequence":
        units = (values.sum(2) / mask.sum(1).clamp(min=1))[:, :, None]
    else:
        units = (values.sum((1, 2)) / mask.sum().clamp(min=1))[:, None, None]
    solve = weights_on_least if noon else min_norm_weights_on_line
    weights = solve(units).expand_as(advantages)
    return (weights * advantages).sum(0), weights


class PAMA(Solver):
    """Pareto multi-objective alignment: one surrogate loss over the min-norm combination of advantages.

    Rule: A = Σ cⁱ Aⁱ, c = argmin |Σ cⁱ Aⁱ/pⁱ| over the simplex, per token, response or batch; with Noon, Aⁱ is
        max(Aⁱ, 0) and the smallest decides.
    Cost: one backward pass.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: every. By token it also slows down on the way, as few samples improve every objective near the front.
    Advantage: any.
    Source: He & Maghsudi 2025, arXiv 2508.07768, theorem 1; the preference is this project's.
    Use: to improve all objectives together at the cost of one. `granularity=batch` follows the preference most.

    Args:
        weights: the preference p over objectives, all positive; equal weights are the paper's method.
        granularity: token, sequence or batch; see `combine`.
        noon: clip each objective's advantages at 0 first.

    Raises:
        UserError: for a weight of zero or an unknown granularity.
    """

    takes_preferences = True

    @checked("solver")
    def __init__(self, weights: Sequence[float], granularity: Granularity = "token", noon: bool = True) -> None:
        super().__init__(weights)
        require_positive(weights, "PAMA divides each objective's advantage by its weight")
        self.granularity, self.noon = granularity, noon
        self.takes_preferences = granularity != "batch"  # one c* for all responses has no place for their preferences

    def on_advantages(
        self, advantages: Float[Tensor, "K B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage; see `combine`."""
        # A preference of 0 is taken as its limit: A/p is the smallest only where A is 0.
        preference = self.weights if self.preferences is None else self.preferences.clamp(min=1e-6)
        combined, weights = combine(
            advantages, response_mask, granularity=self.granularity, noon=self.noon, preference=preference
        )
        count = response_mask.sum()
        if count > 0:
            self.latest_weights = weights.detach().flatten(1) @ response_mask.flatten().to(weights) / count
        return combined[None]


def _relative(
    preference: Float[Tensor, " N"] | Float[Tensor, "N B"] | Sequence[float], shape: Sequence[int]
) -> Float[Tensor, "N _"]:
    """pⁱ / maxⱼ pʲ, for all responses or for each; gives the same solution as p, and exactly 1 if p is uniform."""
    p = torch.as_tensor(preference, dtype=torch.float64)
    fits = p.shape in ((shape[0],), tuple(shape))
    if not (fits and bool((p > 0).all()) and bool(((p.sum(0) - 1).abs() < 1e-4).all())):
        raise UserError(
            f"preference={p.tolist()} is not in the interior of the simplex over {shape[0]} objectives.",
            "Give one positive number per objective, summing to 1.",
        )
    return (p / p.amax(0)).float().reshape(shape[0], -1)
