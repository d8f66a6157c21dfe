"""What scores responses, and the check that every score is one finite number per response.

Legend: B responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.types import PromptBatch


@runtime_checkable
class Scorer(Protocol):
    """Prompts and responses in, one float per response out, in order."""

    def score(self, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
        """Finite; higher means more of what it measures."""
        ...


def checked_score(name: str, scorer: Scorer, prompts: PromptBatch, responses: Sequence[str]) -> Float[Tensor, " B"]:
    """The scorer's scores, in float32 on the processor.

    Raises:
        UserError: for the wrong number of scores, NaN or inf, naming the scorer and the sample.
    """
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
    return scores
