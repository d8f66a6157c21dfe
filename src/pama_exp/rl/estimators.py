"""Advantage estimators: from one score per response and channel to one advantage per token and channel.

Legend: K reward channels, B responses, T response tokens.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, Range, checked
from pama_exp.rl.advantages import (
    broadcast_to_tokens,
    center_and_scale,
    gae,
    group_standardise,
    leave_one_out,
    scale_about_mean,
    token_rewards,
)

_WHITENING = {"none": None, "scale": scale_about_mean, "center_and_scale": center_and_scale}
_BASELINES = {"leave_one_out": leave_one_out, "standardise": group_standardise}


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

    @checked("advantage")
    def __init__(
        self,
        gamma: Annotated[float, Range(above=0, most=1)] = 1.0,
        lam: Annotated[float, Range(least=0, most=1)] = 1.0,
        whiten: Annotated[str, OneOf(*_WHITENING)] = "center_and_scale",
    ) -> None:
        self.gamma, self.lam, self.whiten = gamma, lam, _WHITENING[whiten]

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

    @checked("advantage")
    def __init__(
        self,
        baseline: Annotated[str, OneOf(*_BASELINES)] = "leave_one_out",
        group_size: Annotated[int, Range(least=2)] = 4,
    ) -> None:
        self.baseline, self.group_size = _BASELINES[baseline], group_size
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

    @checked("advantage")
    def __init__(
        self,
        gamma: Annotated[float, Range(above=0, most=1)] = 1.0,
        group_size: Annotated[int, Range(least=1)] = 1,
    ) -> None:
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
