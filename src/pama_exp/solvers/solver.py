"""The base class of multi-objective methods.

A method acts through one of three hooks: on rewards, on advantages or on losses. Each is the identity by default. Three
others (`calibrate`, `observe`, `on_validation`) report scores to the solver and do nothing by default. `prefer` sets a
preference for each response, in solvers that can use one.

Legend: N objectives, K channels or losses before a hook, L after it, B responses, T response tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.errors import UserError


@runtime_checkable
class Gramian(Protocol):
    """The Gramian of the surrogate losses' gradients, G_kl = ⟨∇L^k, ∇L^l⟩, computed when called."""

    def __call__(self, target: Literal["parameters", "hidden"] = "parameters") -> Float[Tensor, "K K"]:
        """The Gramian of gradients with respect to the trained parameters, or to the shared last hidden state."""


class Solver:
    """A multi-objective method; a subclass overrides the hook at which it acts.

    A subclass's further arguments are its settings in the configuration. An argument named `group_size` receives the
    number of responses per prompt, which are consecutive in every batch.

    Args:
        weights: the user's weight of each objective, in the objectives' order; normalised to sum to 1.

    Attributes:
        weights: (N,) the user's weights, normalised.
        latest_weights: (N,) the weights applied last, for logging: averaged over valid tokens if they are per token,
            and scaled to magnitudes that sum to 1.
        estimators: labels of the advantage estimators that the method supports; empty: all.
        checkpointed: names of the attributes that a checkpoint must hold.
        needs_calibration: whether `calibrate` must be called before the first step.
        needs_validation: whether the method uses `on_validation`, and so needs `training.evaluate_every`.
        takes_preferences: whether `prefer` can set weights for each response.
        preferences: (N,B) the weights of each response; None: the user's weights apply to all.

    Raises:
        UserError: if there are no weights, if one is negative or not finite, or if all are zero.
    """

    weights: Float[Tensor, " N"]
    latest_weights: Float[Tensor, " N"]
    estimators: tuple[str, ...] = ()
    checkpointed: tuple[str, ...] = ()
    needs_calibration: bool = False
    needs_validation: bool = False
    takes_preferences: bool = False
    preferences: Float[Tensor, "N B"] | None = None

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = on_simplex(weights)
        self.latest_weights = self.weights.clone()

    @property
    def num_channels(self) -> int:
        """Number of reward channels after `on_rewards`; advantages and value heads are per channel."""
        return len(self.weights)

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Receive the starting policy's scores, raw and normalised; called once, if `needs_calibration`."""

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Receive each step's scores before normalisation; called before the other hooks."""

    def prefer(self, preferences: Float[Tensor, "N B"]) -> None:
        """Set the preference of each response of the coming step, used in place of the user's weights."""
        self.preferences = preferences
        self.latest_weights = preferences.mean(1)

    def weights_of(self, values: Float[Tensor, "N B *rest"]) -> Tensor:
        """The weights, the user's or each response's own, in a shape that broadcasts with `values`."""
        weights = self.weights[:, None] if self.preferences is None else self.preferences
        return weights.to(values).reshape(*weights.shape, *[1] * (values.dim() - 2))

    def weighted_sum(self, values: Float[Tensor, "N B *rest"]) -> Float[Tensor, " B *rest"]:
        """Weighted sum over objectives, Σ wⁱ vⁱ, with the user's weights or each response's own."""
        if self.preferences is None:
            return torch.einsum("n,n...->...", self.weights.to(values), values)
        return (self.weights_of(values) * values).sum(0)

    def on_validation(self, means: Float[Tensor, " N"]) -> None:
        """Receive the mean scores on the validation prompts after each evaluation."""

    def on_rewards(self, rewards: Float[Tensor, "K B"]) -> Float[Tensor, "L B"]:
        """Hook on rewards: one per response and objective in, one per response and channel out."""
        return rewards

    def on_advantages(
        self, advantages: Float[Tensor, "K B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "L B T"]:
        """Hook on advantages: one per token and channel in, one per token and surrogate loss out."""
        return advantages

    def on_losses(self, losses: Float[Tensor, " K"], gramian: Gramian) -> Float[Tensor, " K"]:
        """Hook on losses: the weight of each surrogate loss in the update."""
        return torch.ones_like(losses)

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint must hold, in tensors and plain values: the `checkpointed` attributes."""
        values = {name: getattr(self, name) for name in self.checkpointed}
        return {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for name in self.checkpointed:
            if hasattr(getattr(self, name), "load_state_dict"):
                getattr(self, name).load_state_dict(state[name])
            else:
                setattr(self, name, copy.deepcopy(state[name]))


def on_simplex(weights: Sequence[float]) -> Float[Tensor, " N"]:
    """Weights normalised to sum to 1, wⁱ / Σ w.

    Raises:
        UserError: if there are no weights, if one is negative or not finite, or if all are zero.
    """
    values = torch.tensor(list(weights), dtype=torch.float64)
    usable = bool(torch.isfinite(values).all()) and bool((values >= 0).all()) and bool((values > 0).any())
    if not usable:
        raise UserError(
            f"solver.weights={list(weights)} cannot be normalised.",
            "Give one finite, non-negative number per objective, not all of them zero, such as [0.5, 0.5].",
        )
    # Divided by the largest first: a sum of huge weights overflows.
    values = values / values.max()
    return (values / values.sum()).float()


def require_positive(weights: Sequence[float], reason: str) -> None:
    """Check that all weights are above 0.

    Raises:
        UserError: if one is not; the message gives the reason.
    """
    if not bool((on_simplex(weights) > 0).all()):
        raise UserError(
            f"solver.weights={list(weights)}: {reason}.",
            "Give every objective a positive weight; leave out an objective that should not count.",
        )
