"""The protocol of scorers, and the check that a scorer returns one finite number per response.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.errors import UserError, located, users_code
from pama_exp.types import PromptBatch

_LARGEST = 1e15  # the squares of many scores must add up within float32, whose largest number is 3e38
FIX_IT = "Correct it, then type the same command again: finished steps are kept."


@runtime_checkable
class Scorer(Protocol):
    """Scores responses: prompts and responses in, one float per response out, in order."""

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """(B,) finite scores in the order of the responses; higher means more of what the scorer measures."""
        ...


def checked_score(name: str, scorer: Scorer, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
    """The scorer's scores, checked, in float32 on the CPU.

    Raises:
        UserError: for a wrong number of scores, and for NaN, inf or numbers too large to compute with, naming objective
            and response; also for any exception that a user's own scorer raises.
    """
    is_ours = type(scorer).__module__.startswith("pama_exp.")
    guard = nullcontext() if is_ours else users_code(f"The scorer {type(scorer).__name__}", FIX_IT)
    with located(f"Objective '{name}'"), guard:
        scores = torch.as_tensor(scorer.score(prompts, responses)).detach().float().cpu()
    if scores.shape != (len(responses),):
        raise UserError(
            f"The scorer of '{name}' returned {list(scores.shape)} scores for {len(responses)} responses.",
            "Return one float per response, in order.",
        )
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"The scorer of '{name}' returned {scores[bad[0]].item()} "
            f"for response {bad[0]}: {responses[bad[0]][:80]!r}.",
            "Every score must be finite.",
        )
    large = (scores.abs() > _LARGEST).nonzero().flatten().tolist()
    if large:
        raise UserError(
            f"The scorer of '{name}' returned {scores[large[0]].item():g} "
            f"for response {large[0]}: {responses[large[0]][:80]!r}.",
            f"Scores lie within ±{_LARGEST:g}: means and deviations of larger ones overflow.",
        )
    return scores
