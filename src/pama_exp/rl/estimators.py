"""Advantage estimators: one score per response and channel in, one advantage per token and channel out.

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
    """An advantage estimator: one score per response and channel in, one advantage per token and channel out.

    Attributes:
        needs_critic: whether the estimator uses value estimates.
        group_size: responses per prompt, consecutive in every batch.
        label: the name by which `Solver.estimators` lists it.
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
        """Advantages, and the returns that the value heads are trained on.

        `kl_penalty` is β times the KL estimate of each token; `values` are the critic's, zeros without one.
        """
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
        """GAE advantages, whitened if asked, and the returns: advantages before whitening plus values."""
        rewards = token_rewards(scores, kl_penalty, response_mask)
        advantages = gae(rewards, values, response_mask, self.gamma, self.lam)
        returns = advantages + values * response_mask
        if self.whiten is not None:
            advantages = self.whiten(advantages, response_mask)
        return advantages, returns


class Group:
    """Critic-free: responses to one prompt are compared; all tokens of a response have the same advantage.

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
        """Advantages of (score − the response's KL penalty) within its group; `values` are returned unchanged."""
        returns = scores - (kl_penalty * response_mask).sum(-1)
        return broadcast_to_tokens(self.baseline(returns, self.group_size), response_mask), values


class ReinforcePlusPlus:
    """Critic-free: the return from each token on, whitened per channel over the batch (REINFORCE++, Hu 2025).

    Aⁱ_t = whiten(Σ_{s ≥ t} γ^(s−t) rⁱ_s), rⁱ the token rewards, KL penalty included

    With several responses per prompt, their mean is first subtracted from the scores (the variant with a baseline).

    Args:
        gamma: discount factor per token, in (0, 1].
        group_size: responses per prompt.

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
        """Whitened returns as advantages; `values` are returned unchanged."""
        if self.group_size > 1:
            # R − mean = (R − mean of the others) (S − 1) / S
            scores = leave_one_out(scores, self.group_size) * ((self.group_size - 1) / self.group_size)
        rewards = token_rewards(scores, kl_penalty, response_mask)
        returns = gae(rewards, torch.zeros_like(rewards), response_mask, self.gamma, 1.0)
        return center_and_scale(returns, response_mask), values
