"""The data that one step of alignment collects for its update.

Legend: N objectives, K reward channels (N, or 1 where the solver scalarises rewards), K' surrogate losses,
B responses, T response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from pama_exp.policy.policy import select, trim
from pama_exp.types import Rollout


@dataclass(frozen=True)
class Experience:
    """A scored rollout, ready for the update."""

    rollout: Rollout
    rewards: Tensor  # (N, B) normalised, as passed to the solver
    old_log_probs: Tensor  # (B, T)
    reference_log_probs: Tensor  # (B, T)
    old_values: Tensor  # (K, B, T)
    advantages: Tensor  # (K, B, T) one per channel, before the solver
    returns: Tensor  # (K, B, T)
    combined: Tensor  # (K', B, T) after the solver
    kl_to_come: Tensor  # (B, T) KL from each token on; used if the KL is charged once
    mean_rewards: Tensor  # (N, 1) over the whole batch, also in a part of it

    def rows(self, index: Tensor) -> Experience:
        """The part of the experience at these rows, without columns that are padding in all of them."""
        rollout = trim(select(self.rollout, index))
        length = rollout.response_ids.shape[1]
        rest = {
            field.name: getattr(self, field.name)[..., index, :length]
            for field in fields(self)
            if field.name not in ("rollout", "rewards", "mean_rewards")
        }
        return Experience(rollout=rollout, rewards=self.rewards[:, index], mean_rewards=self.mean_rewards, **rest)

    def per_objective(self) -> Tensor:
        """(N,B,T) advantages for diagnostics; with scalarised rewards, each reward minus its batch mean."""
        if len(self.advantages) == len(self.rewards):
            return self.advantages
        return (self.rewards - self.mean_rewards)[..., None] * self.rollout.response_mask
