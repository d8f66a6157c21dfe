"""An objective: its name, scorer, direction and normaliser.

Legend: N objectives, B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.rewards.classifier import ClassifierScorer
from pama_exp.rewards.http import HttpScorer
from pama_exp.rewards.multi_head import MultiHead
from pama_exp.rewards.normalise import Identity, Normaliser
from pama_exp.rewards.scorer import Scorer, checked_score
from pama_exp.types import PromptBatch


@dataclass
class Objective:
    """One objective of a run. Inside the framework a higher reward is always better: `minimize` negates the scores.

    Attributes:
        name: the objective's name in records.
        scorer: scores responses for training.
        weight: the user's weight of the objective.
        direction: whether a higher score of the scorer is better (`maximize`) or worse (`minimize`).
        normaliser: applied to the scores before the solver sees them.
        range: lowest and highest score, if known.
        gold: FactWorld's exact program; None elsewhere.
    """

    name: str
    scorer: Scorer
    weight: float = 1.0
    direction: Literal["maximize", "minimize"] = "maximize"
    normaliser: Normaliser = field(default_factory=Identity)
    range: tuple[float, ...] | None = None
    gold: Scorer | None = None

    def scores(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) training scores before normalisation, higher is better."""
        return self._sign * checked_score(self.name, self.scorer, prompts, responses)

    def to(self, device: torch.device) -> None:
        """Move the scorer's model, if it has one, to the device."""
        if isinstance(self.scorer, ClassifierScorer | MultiHead):
            self.scorer.to(device)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the scorer runs on a server or on a device of its own, and so can run beside the others."""
        scorer = self.scorer
        if isinstance(scorer, ClassifierScorer | MultiHead):
            return scorer.device is not None
        return isinstance(scorer, HttpScorer)

    def gold_scores(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) gold scores, higher is better; only for an objective that has `gold`."""
        assert self.gold is not None
        return self._sign * checked_score(f"{self.name} (gold)", self.gold, prompts, responses)

    @property
    def _sign(self) -> float:
        return 1.0 if self.direction == "maximize" else -1.0


def score_all(objectives: Sequence[Objective], prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, "N B"]:
    """Scores of all objectives, in order; scorers that run elsewhere run at the same time as the others."""
    elsewhere = [objective for objective in objectives if objective.is_elsewhere]
    with ThreadPoolExecutor(max(1, len(elsewhere))) as pool:
        pending = {objective.name: pool.submit(objective.scores, prompts, responses) for objective in elsewhere}
        here = {o.name: o.scores(prompts, responses) for o in objectives if not o.is_elsewhere}
    rows = here | {name: scores.result() for name, scores in pending.items()}
    return torch.stack([rows[objective.name] for objective in objectives])
