"""Advantage estimators: from one score per response and channel to one advantage per token and channel.

Legend: K reward channels, B responses, T response tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.errors import UserError, suggest
from pama_exp.rl.advantages import (
    broadcast_to_tokens,
    center_and_scale,
    gae,
    group_standardise,
    leave_one_out,
    scale_about_mean,
    token_rewards,
)


class Estimator(Protocol):
    """From one score per response to one advantage per token, per channel.

    Attributes:
        needs_critic: whether values are used.
        group_size: responses per prompt, consecutive in every batch.
        label: what `Solver.estimators` names it by.
    """

    needs_critic: bool
    group_size: int
    label: str

    def estimate(
        self,
        scores: Float[Tensor, "K B"],
        kl_penalty: Float[Tensor, "B T"],
        values: Float[Tensor, "K B T"],
        response_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """Advantages and returns of every token and channel."""
        ...


class GAE:
    """Generalised advantage estimation with one value head per channel (Schulman et al. 2016).

    Args:
        gamma: discount factor per token, in (0, 1].
        lam: λ of GAE, in [0, 1].
        whiten: none; scale (unit deviation, mean kept); center_and_scale (zero mean, unit deviation), per channel.

    Raises:
        UserError: for a setting outside its range.
    """

    needs_critic = True
    group_size = 1
    label = "gae"

    def __init__(self, gamma: float = 1.0, lam: float = 1.0, whiten: str = "center_and_scale") -> None:
        if not (0.0 < gamma <= 1.0 and 0.0 <= lam <= 1.0):
            raise UserError(f"advantage: gamma={gamma}, lam={lam}.", "gamma lies in (0, 1] and lam in [0, 1].")
        whitening = {"none": None, "scale": scale_about_mean, "center_and_scale": center_and_scale}
        if whiten not in whitening:
            raise UserError(f"advantage.whiten={whiten} is not one of its values.", suggest(whiten, whitening))
        self.gamma, self.lam, self.whiten = gamma, lam, whitening[whiten]

    def estimate(
        self,
        scores: Float[Tensor, "K B"],
        kl_penalty: Float[Tensor, "B T"],
        values: Float[Tensor, "K B T"],
        response_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """Advantages, and the returns the value heads regress on (advantages before whitening + values)."""
        rewards = token_rewards(scores, kl_penalty, response_mask)
        advantages = gae(rewards, values, response_mask, self.gamma, self.lam)
        returns = advantages + values * response_mask
        if self.whiten is not None:
            advantages = self.whiten(advantages, response_mask)
        return advantages, returns


class Group:
    """Responses to one prompt compared with one another; every token carries its response's advantage.

    Args:
        baseline: leave_one_out (RLOO, Ahmadian et al. 2024) or standardise (GRPO, Shao et al. 2024).
        group_size: responses per prompt, at least 2.

    Raises:
        UserError: for an unknown baseline or a group of fewer than 2.
    """

    needs_critic = False

    def __init__(self, baseline: str = "leave_one_out", group_size: int = 4) -> None:
        baselines = {"leave_one_out": leave_one_out, "standardise": group_standardise}
        if baseline not in baselines:
            raise UserError(f"advantage.baseline={baseline} is not one of its values.", suggest(baseline, baselines))
        if group_size < 2:
            raise UserError(f"advantage.group_size={group_size}.", "A group needs at least 2 responses to compare.")
        self.baseline, self.group_size = baselines[baseline], group_size
        self.label = f"group/{baseline}"

    def estimate(
        self,
        scores: Float[Tensor, "K B"],
        kl_penalty: Float[Tensor, "B T"],
        values: Float[Tensor, "K B T"],
        response_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """Advantages of (score − the response's whole KL penalty) within its group; `values` come back untouched."""
        returns = scores - (kl_penalty * response_mask).sum(-1)
        return broadcast_to_tokens(self.baseline(returns, self.group_size), response_mask), values


class ReinforcePlusPlus:
    """The return from every token on, whitened per channel over the batch; no critic (REINFORCE++, Hu 2025).

    Aⁱ_t = whiten(Σ_{s ≥ t} γ^(s−t) rⁱ_s), rⁱ the token rewards with the KL in them

    Where a prompt has several answers, their mean is taken off the scores first (its variant with a baseline).

    Args:
        gamma: discount factor per token, in (0, 1].
        group_size: responses per prompt; 1: each prompt has one.

    Raises:
        UserError: for a setting outside its range.
    """

    needs_critic = False
    label = "reinforce-plus-plus"

    def __init__(self, gamma: float = 1.0, group_size: int = 1) -> None:
        if not 0.0 < gamma <= 1.0:
            raise UserError(f"advantage.gamma={gamma}.", "gamma lies in (0, 1].")
        if group_size < 1:
            raise UserError(f"advantage.group_size={group_size}.", "It is at least 1: one response per prompt.")
        self.gamma, self.group_size = gamma, group_size

    def estimate(
        self,
        scores: Float[Tensor, "K B"],
        kl_penalty: Float[Tensor, "B T"],
        values: Float[Tensor, "K B T"],
        response_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """Whitened returns; `values` come back untouched."""
        if self.group_size > 1:
            # R − mean = (R − mean of the others) (S − 1) / S
            scores = leave_one_out(scores, self.group_size) * ((self.group_size - 1) / self.group_size)
        rewards = token_rewards(scores, kl_penalty, response_mask)
        returns = gae(rewards, torch.zeros_like(rewards), response_mask, self.gamma, 1.0)
        return center_and_scale(returns, response_mask), values
