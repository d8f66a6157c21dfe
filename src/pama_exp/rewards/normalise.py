"""Normalisers of one objective's rewards: none, running, and frozen after a calibration.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


class Identity:
    """No normalisation."""

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the rewards unchanged."""
        return rewards

    def state_dict(self) -> dict[str, float]:
        """The state to save: empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Do nothing: there is no state."""


class Running:
    """(r − mean) / deviation of all rewards seen so far (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Update the statistics with the batch, then normalise it."""
        batch = rewards.double()
        count, mean = len(batch), batch.mean().item()
        delta, total = mean - self.mean, self.count + count
        self.squares += (batch - mean).square().sum().item() + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        return _standardise(rewards, self.mean, (self.squares / self.count) ** 0.5)

    def state_dict(self) -> dict[str, float]:
        """The state to save: count, mean and sum of squared deviations."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state that `state_dict` returned."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


class Frozen:
    """(r − mean) / deviation, both of a calibration sample."""

    def __init__(self) -> None:
        self.mean, self.deviation = 0.0, 1.0

    def calibrate(self, rewards: Float[Tensor, " B"]) -> None:
        """Set mean and deviation from a sample of rewards."""
        self.mean = rewards.double().mean().item()
        self.deviation = rewards.double().std(correction=0).item()

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Normalise the rewards; the statistics stay those of the calibration."""
        return _standardise(rewards, self.mean, self.deviation)

    def state_dict(self) -> dict[str, float]:
        """The state to save: mean and deviation of the calibration."""
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state that `state_dict` returned."""
        self.mean, self.deviation = state["mean"], state["deviation"]


Normaliser = Identity | Running | Frozen


def _standardise(rewards: Float[Tensor, " B"], mean: float, deviation: float) -> Float[Tensor, " B"]:
    """(r − mean) / deviation; only centred where the deviation is 0 but for rounding."""
    return (rewards - mean) / (deviation if deviation > 1e-8 else 1.0)
