"""The values that travel between rooms: prompts in, responses out.

Legend: N objectives, B responses, P prompt tokens, T response tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PromptBatch:
    """B tokenized prompts, padded on the left so that every response starts in the same column.

    `texts` are the prompts as strings; `columns` holds whatever else the data source knows of each prompt (lists of
    length B), handed on to scorers.

    `preferences` are what a conditioned policy is asked to serve, each row on the simplex; None where the policy is
    told none. Where they are written into the prompt, or the prompt into a chat template, `input_ids` hold that and
    `texts` do not. `prefills` is what a chat template has begun of each answer: responses as texts begin with it.
    """

    input_ids: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]  # True on prompt tokens, False on the padding before them
    texts: Sequence[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    preferences: Float[Tensor, "B N"] | None = None
    prefills: Sequence[str] | None = None

    def rows(self, index: Sequence[int]) -> PromptBatch:
        """The prompts at these rows, with the same padding."""
        index = list(index)
        return replace(
            self,
            input_ids=self.input_ids[index],
            mask=self.mask[index],
            texts=[self.texts[i] for i in index],
            columns={name: [values[i] for i in index] for name, values in self.columns.items()},
            preferences=None if self.preferences is None else self.preferences[index],
            prefills=None if self.prefills is None else [self.prefills[i] for i in index],
        )

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Rollout:
    """One response for each prompt, padded on the right.

    `response_mask` is True on every token the policy chose, its end-of-sequence token included. `finished` is True
    where the response ended by itself rather than by the length limit. `texts` hold no special tokens.

    An engine that computes as the update does leaves here what the update would compute again: log-probabilities at
    the sampling temperature (zeros on padding), and the last hidden states from which the tokens were predicted
    (arbitrary on padding).
    """

    prompts: PromptBatch
    response_ids: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    finished: Bool[Tensor, " B"]
    texts: Sequence[str]
    log_probs: Float[Tensor, "B T"] | None = None
    states: Float[Tensor, "B T H"] | None = None

    def __len__(self) -> int:
        return len(self.texts)
