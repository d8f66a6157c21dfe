"""How far each objective's mean is from an ideal point: a positive, comparable loss where surrogates are near 0.

Legend: N objectives, B responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 0.01


class Gap:
    """ℓⁱ = max((zⁱ − r̄ⁱ) / (zⁱ − r̄₀ⁱ), 0.01), 1 at the start and 0.01 where the ideal is reached or passed.

    z is the best score of each objective among the starting policy's responses, r̄₀ their mean, r̄ the latest step's
    mean. An objective whose scores did not vary at the start keeps ℓ = 1.
    """

    def __init__(self, count: int) -> None:
        self.ideal = torch.ones(count)
        self.start = torch.zeros(count)
        self.current = torch.zeros(count)

    def calibrate(self, scores: Float[Tensor, "N B"]) -> None:
        """Fix z and r̄₀."""
        self.ideal, self.start = scores.amax(1).float().cpu(), scores.mean(1).float().cpu()
        self.current = self.start.clone()

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Take a step's mean scores."""
        self.current = scores.mean(1).float().cpu()

    def values(self) -> Float[Tensor, " N"]:
        """ℓ, on the processor."""
        whole = self.ideal - self.start
        return torch.where(whole > 0, (self.ideal - self.current) / torch.where(whole > 0, whole, 1), 1).clamp(
            min=FLOOR
        )

    def state_dict(self) -> dict[str, Any]:
        """z, r̄₀ and r̄."""
        return {"ideal": self.ideal, "start": self.start, "current": self.current}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.ideal, self.start, self.current = state["ideal"], state["start"], state["current"]
