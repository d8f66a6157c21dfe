"""Normalisers of one objective's rewards.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


class Identity:
    """Rewards as they are."""

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The rewards."""
        return rewards

    def state_dict(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Nothing."""


class Running:
    """(r − mean) / deviation over everything seen so far (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Take the batch in, then normalise it."""
        batch = rewards.double()
        count, mean = len(batch), batch.mean().item()
        delta, total = mean - self.mean, self.count + count
        self.squares += (batch - mean).square().sum().item() + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        return _standardise(rewards, self.mean, (self.squares / self.count) ** 0.5)

    def state_dict(self) -> dict[str, float]:
        """Count, mean and sum of squares."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


class Frozen:
    """(r − mean) / deviation of a calibration sample, given once."""

    def __init__(self) -> None:
        self.mean, self.deviation = 0.0, 1.0

    def calibrate(self, rewards: Float[Tensor, " B"]) -> None:
        """Take mean and deviation from this sample."""
        self.mean = rewards.double().mean().item()
        self.deviation = rewards.double().std(correction=0).item()

    def update_and_apply(self, rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Normalise by the calibration."""
        return _standardise(rewards, self.mean, self.deviation)

    def state_dict(self) -> dict[str, float]:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self.mean, self.deviation = state["mean"], state["deviation"]


Normaliser = Identity | Running | Frozen


def _standardise(rewards: Float[Tensor, " B"], mean: float, deviation: float) -> Float[Tensor, " B"]:
    """Only centred where the sample does not vary."""
    return (rewards - mean) / (deviation if deviation > 1e-8 else 1.0)
