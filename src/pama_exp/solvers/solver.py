"""What a multi-objective method is to the rest of the framework: three hooks that act, identity by default.

Three more only tell the solver what happened (`calibrate`, `observe`, `on_validation`); they do nothing by default, and
every solver is told alike. A fourth, `prefer`, is for those that can weigh every response by a preference of its own.

Legend: N objectives, K channels or losses before a hook, L after it, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.errors import UserError


@runtime_checkable
class Gramian(Protocol):
    """G_kl = ⟨∇L^k, ∇L^l⟩ of the surrogate losses, computed when called and not before."""

    def __call__(self, target: Literal["parameters", "hidden"] = "parameters") -> Float[Tensor, "K K"]:
        """Gradients with respect to the trained parameters, or to the last hidden state that the losses share."""


class Solver:
    """A multi-objective method; a subclass overrides the hook at which it acts.

    A subclass's further arguments are its settings in the configuration. One named `group_size` is given the number of
    responses per prompt, which are consecutive in every batch.

    Args:
        weights: the user's weight of each objective, in the objectives' order; normalised to sum to 1.

    Attributes:
        weights: (N,) the same, on the simplex.
        latest_weights: (N,) the objective weights most recently applied, averaged over valid tokens where they are per
            token, and scaled so that their magnitudes sum to 1; for logging.
        estimators: labels of the advantage estimators that the method is defined for; empty: all.
        needs_calibration: whether `calibrate` must be called before the first step.
        needs_validation: whether the method depends on `on_validation`, hence on `training.evaluate_every`.
        takes_preferences: whether every response may have weights of its own, which `prefer` sets.
        preferences: (N,B) these, where there are any.

    Raises:
        UserError: if there are no weights, if one is negative or not finite, or if all are zero.
    """

    weights: Float[Tensor, " N"]
    latest_weights: Float[Tensor, " N"]
    estimators: tuple[str, ...] = ()
    needs_calibration: bool = False
    needs_validation: bool = False
    takes_preferences: bool = False
    preferences: Float[Tensor, "N B"] | None = None

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = on_simplex(weights)
        self.latest_weights = self.weights.clone()

    @property
    def num_channels(self) -> int:
        """Reward channels after `on_rewards`: how many advantages are estimated and value heads trained."""
        return len(self.weights)

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """The starting policy's scores, and the same after normalisation; called once, where `needs_calibration`."""

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Every step's scores before normalisation, ahead of the other hooks."""

    def prefer(self, preferences: Float[Tensor, "N B"]) -> None:
        """Weigh each response of the coming step by its own preference, and none by the user's weights."""
        self.preferences = preferences
        self.latest_weights = preferences.mean(1)

    def weights_of(self, values: Float[Tensor, "N B *rest"]) -> Tensor:
        """The weights in a shape that multiplies `values`: the user's, or each response's own."""
        weights = self.weights[:, None] if self.preferences is None else self.preferences
        return weights.to(values).reshape(*weights.shape, *[1] * (values.dim() - 2))

    def weighted_sum(self, values: Float[Tensor, "N B *rest"]) -> Float[Tensor, " B *rest"]:
        """Σ wⁱ vⁱ by the user's weights, or by each response's own."""
        if self.preferences is None:
            return torch.einsum("n,n...->...", self.weights.to(values), values)
        return (self.weights_of(values) * values).sum(0)

    def on_validation(self, means: Float[Tensor, " N"]) -> None:
        """Mean scores on the validation prompts, whenever they have been evaluated."""

    def on_rewards(self, rewards: Float[Tensor, "K B"]) -> Float[Tensor, "L B"]:
        """One score per response and objective → one per response and channel."""
        return rewards

    def on_advantages(
        self, advantages: Float[Tensor, "K B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "L B T"]:
        """One advantage per token and channel → one per token and surrogate loss."""
        return advantages

    def on_losses(self, losses: Float[Tensor, " K"], gramian: Gramian) -> Float[Tensor, " K"]:
        """The weight of each surrogate loss in the update."""
        return torch.ones_like(losses)

    def state_dict(self) -> dict[str, Any]:
        """Whatever must survive an interruption: tensors and floats."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


def on_simplex(weights: Sequence[float]) -> Float[Tensor, " N"]:
    """w^i / Σ w.

    Raises:
        UserError: if there are no weights, if one is negative or not finite, or if all are zero.
    """
    given = torch.tensor(list(weights), dtype=torch.float64)
    usable = bool(torch.isfinite(given).all()) and bool((given >= 0).all()) and bool((given > 0).any())
    if not usable:
        raise UserError(
            f"solver.weights={list(weights)} cannot be normalised.",
            "Give one finite, non-negative number per objective, not all of them zero, such as [0.5, 0.5].",
        )
    # Divided by the largest first: a sum of huge weights overflows.
    given = given / given.max()
    return (given / given.sum()).float()
