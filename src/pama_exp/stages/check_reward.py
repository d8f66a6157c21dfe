"""`stage=check_reward`: how often each objective's scorer agrees with the preference pairs of a table."""

from __future__ import annotations

from typing import Any

import torch

from pama_exp.assembly.setup import Setup
from pama_exp.assembly.task import TextTask
from pama_exp.errors import UserError
from pama_exp.tracking.console import phase
from pama_exp.tracking.record import RunRecord
from pama_exp.types import PromptBatch

_AT_ONCE = 64  # pairs scored in one batch


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Score both responses of `evaluate.prompts` pairs of `evaluate.split` by every objective.

    Returns:
        The content of result.json. For each objective: the share of pairs whose chosen response scores higher, of ties
        (which count as wrong), and the mean difference of the scores.

    Raises:
        UserError: if the data is no table of text with pairs.
    """
    if not isinstance(setup.task, TextTask):
        raise UserError("stage=check_reward reads pairs from a table of text.", "Set data=file data.path=PAIRS.jsonl.")
    e = setup.config.evaluate
    pairs = setup.task.data.preference_pairs(e.split)[: e.prompts]
    accuracies = {}
    with phase("Scoring pairs", len(pairs) * len(setup.objectives)) as scoring:
        for plan in setup.objectives:
            objective = plan.build()
            objective.to(setup.device)
            margins = []
            for at in range(0, len(pairs), _AT_ONCE):
                prompts, chosen, rejected = zip(*pairs[at : at + _AT_ONCE], strict=True)
                batch = _batch(prompts)
                margins.append(objective.scores(batch, list(chosen)) - objective.scores(batch, list(rejected)))
                scoring.advance(len(prompts))
            margin = torch.cat(margins)
            accuracies[plan.name] = {
                "held_out_accuracy": (margin > 0).float().mean().item(),
                "ties": (margin == 0).float().mean().item(),
                "margin": margin.mean().item(),
                "pairs": len(pairs),
            }
    return {"status": "complete", "reward_models": accuracies, "run_dir": str(record.folder)}


def _batch(texts: tuple[str, ...]) -> PromptBatch:
    """A prompt batch of texts. The scorers do not read its token ids, which are zeros."""
    return PromptBatch(torch.zeros(len(texts), 1, dtype=torch.long), torch.ones(len(texts), 1).bool(), list(texts))
