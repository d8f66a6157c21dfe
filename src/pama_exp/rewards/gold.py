"""FactWorld's gold programs as scorers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pama_exp.types import PromptBatch
from pama_exp.world import FactWorld


class GoldScorer:
    """Scores by FactWorld's gold program of an objective, in [0, 1]."""

    def __init__(self, world: FactWorld, objective: str) -> None:
        self.world, self.objective = world, objective

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Tensor:
        """(B,) gold values of the responses."""
        return torch.tensor(self.world.gold(self.objective, list(prompts.texts), list(responses)))
