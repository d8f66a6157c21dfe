"""Each objective's remaining distance to an ideal point: a positive, comparable loss, unlike a surrogate near 0.

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
    """The remaining share of each objective's distance to its ideal: 1 at the start, 0.01 from the ideal on.

    ℓⁱ = max((zⁱ − r̄ⁱ) / (zⁱ − r̄₀ⁱ), 0.01)

    z is the best score of each objective among the starting policy's responses, r̄₀ their mean, r̄ the latest step's
    mean. An objective whose scores did not vary at the start keeps ℓ = 1. `count` is N.
    """

    def __init__(self, count: int) -> None:
        self.ideal = torch.ones(count)
        self.start = torch.zeros(count)
        self.current = torch.zeros(count)

    def calibrate(self, scores: Float[Tensor, "N B"]) -> None:
        """Set the ideal z and the start r̄₀ from the starting policy's scores."""
        self.ideal, self.start = scores.amax(1).float().cpu(), scores.mean(1).float().cpu()
        self.current = self.start.clone()

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Set r̄ to the step's mean scores."""
        self.current = scores.mean(1).float().cpu()

    def values(self) -> Float[Tensor, " N"]:
        """The losses ℓ, on the CPU."""
        distance = self.ideal - self.start
        share = (self.ideal - self.current) / torch.where(distance > 0, distance, 1)
        return torch.where(distance > 0, share, 1).clamp(min=FLOOR)

    def state_dict(self) -> dict[str, Any]:
        """The state to save: z, r̄₀ and r̄."""
        return {"ideal": self.ideal, "start": self.start, "current": self.current}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.ideal, self.start, self.current = state["ideal"], state["start"], state["current"]
