"""Methods that reduce the objectives to one channel with weights that do not depend on the advantages.

Legend: N objectives, K = N channels, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, checked
from pama_exp.solvers.solver import Solver


class Linear(Solver):
    """Fixed weights (MORLHF), applied to the advantages or to the rewards.

    Rule: A = Σ wⁱ Aⁱ, or one advantage estimated from r = Σ wⁱ rⁱ.
    Cost: one backward pass; in reward space one value head.
    State: none.
    Scale: equivariant. In advantage space with whitened advantages, the rewards' spreads do not matter.
    Weights: simplex.
    Stays: own.
    Advantage: any.
    Source: the weighted sum; as the baseline MORLHF in He & Maghsudi 2025.
    Use: as the baseline. The mean rewards of all policies form a convex set, whose front a sweep of weights can trace;
        where the front of what a model can learn bends inwards, the sweep jumps over it.

    Args:
        weights: w, one per objective.
        space: `advantage`, A = Σ wⁱ Aⁱ over advantages estimated (and whitened) per objective; `reward`, r = Σ wⁱ rⁱ
            before a single advantage is estimated, with one value head for all.

    Raises:
        UserError: for an unknown space.
    """

    takes_preferences = True

    @checked("solver")
    def __init__(
        self, weights: Sequence[float], space: Annotated[str, OneOf("advantage", "reward")] = "advantage"
    ) -> None:
        super().__init__(weights)
        self.space = space

    @property
    def num_channels(self) -> int:
        """1 in reward space, else N."""
        return 1 if self.space == "reward" else len(self.weights)

    def on_rewards(self, rewards: Float[Tensor, "K B"]) -> Float[Tensor, "L B"]:
        """The weighted reward Σ wⁱ rⁱ in reward space; in advantage space the rewards, unchanged."""
        if self.space == "advantage":
            return rewards
        return self.weighted_sum(rewards)[None]

    def on_advantages(
        self, advantages: Float[Tensor, "K B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The weighted advantage Σ wⁱ Aⁱ in advantage space; in reward space the advantage, unchanged."""
        if self.space == "reward":
            return advantages
        return self.weighted_sum(advantages)[None]
