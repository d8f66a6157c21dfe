"""The KL penalty that keeps the policy near its reference: estimators per token, and its coefficient β.

Legend: B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError, suggest

ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(
    log_probs: Float[Tensor, "B T"], reference_log_probs: Float[Tensor, "B T"], estimator: str = "k1"
) -> Float[Tensor, "B T"]:
    """Estimates of KL(π‖π_ref), in nats, from tokens drawn from π (Schulman 2020, "Approximating KL divergence").

    With ℓ = log π − log π_ref:  k1 = ℓ (unbiased);  k2 = ½ ℓ² (biased, never negative);
    k3 = exp(−ℓ) − 1 + ℓ (unbiased, never negative).

    Raises:
        UserError: for an unknown estimator.
    """
    log_ratio = log_probs - reference_log_probs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise UserError(f"estimator={estimator} is not a KL estimator.", suggest(estimator, ESTIMATORS))


def check_placement(estimator: str, placement: str) -> None:
    """Check that the KL estimator constrains the policy at its placement.

    As a term of the loss, with tokens drawn from π: E[∇k1] = 0, whatever the policy; E[∇k2] = ∇KL(π‖π_ref);
    E[∇k3] = ∇KL(π_ref‖π). In the reward, every estimator constrains the policy.

    Raises:
        UserError: for estimator k1 with placement loss.
    """
    if placement == "loss" and estimator == "k1":
        raise UserError(
            "training.kl.placement=loss with estimator=k1 constrains nothing: its expected gradient is zero.",
            "Set training.kl.estimator=k2 (the gradient of KL(π‖reference)) or k3 (of KL(reference‖π)).",
        )


def kl_to_come(kl: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """KL from each token to the end of its response, Σ_{s ≥ t} kl_s, minus its mean; 0 off the mask.

    The cost of token t where the KL is charged once instead of in every objective's return. The mean is taken over the
    responses that have a token t. As a baseline it leaves the expected gradient unchanged and reduces the variance that
    comes from the responses' lengths.
    """
    to_come = torch.where(response_mask, kl, 0).flip(1).cumsum(1).flip(1)
    mean = torch.where(response_mask, to_come, 0).sum(0) / response_mask.sum(0).clamp(min=1)
    return torch.where(response_mask, to_come - mean, 0)


class FixedKL:
    """A constant KL coefficient β.

    Raises:
        UserError: for a negative coefficient.
    """

    @checked("training.kl")
    def __init__(self, coefficient: Annotated[float, Range(least=0)]) -> None:
        self.coefficient = coefficient

    def update(self, observed_kl: float, num_samples: int) -> None:
        """Do nothing: the coefficient is constant."""

    def state_dict(self) -> dict[str, float]:
        """The state to save: the coefficient."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state that `state_dict` returned."""
        self.coefficient = state["coefficient"]


class AdaptiveKL(FixedKL):
    """A KL coefficient β that adapts to keep the KL per response near a target (Ziegler et al. 2019, section 2.2).

    e = clip(KL / target − 1, −0.2, 0.2);  β ← β (1 + e n / horizon)

    Args:
        coefficient: β at the start.
        target: KL per response, in nats.
        horizon: number of responses over which β changes by at most a fifth.

    Raises:
        UserError: for a negative coefficient, or a target or horizon that is not positive.
    """

    @checked("training.kl")
    def __init__(
        self, coefficient: float, target: Annotated[float, Range(above=0)], horizon: Annotated[int, Range(least=1)]
    ) -> None:
        super().__init__(coefficient)
        self.target, self.horizon = target, horizon

    def update(self, observed_kl: float, num_samples: int) -> None:
        """Adapt β after a batch of `num_samples` responses whose mean KL was `observed_kl` nats."""
        error = min(max(observed_kl / self.target - 1, -0.2), 0.2)
        # A batch beyond the horizon counts as the horizon: five of them would otherwise turn β negative.
        self.coefficient *= 1 + error * min(num_samples / self.horizon, 1.0)
