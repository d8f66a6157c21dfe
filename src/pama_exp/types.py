"""Data that packages exchange: a batch of prompts, and the responses to it.

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

    Attributes:
        input_ids: (B,P) what the policy reads, including a chat template and a preference written before the prompt.
        mask: (B,P) True on prompt tokens, False on the padding before them.
        texts: the B prompts as strings, without chat template and without preference.
        columns: the data's other columns, each a list of length B. Scorers get them.
        preferences: (B,N) the preference of each prompt, rows on the simplex; None if the policy is not conditioned.
        prefills: the beginning of each answer that a chat template has already written; the response's text begins
            with it. None if there is none.
    """

    input_ids: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]
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

    Attributes:
        prompts: the B prompts.
        response_ids: (B,T) token ids.
        response_mask: (B,T) True on every token that the policy chose, its end-of-sequence token included.
        finished: (B,) True where the response ended with an end-of-sequence token, False at the length limit.
        texts: the B responses as strings, without special tokens.
        log_probs: (B,T) log-probabilities at the sampling temperature, 0 on padding. Only from engines that compute
            exactly as the update does; the update then does not compute them again.
        states: (B,T,H) last hidden states that predicted the tokens, arbitrary on padding; from the same engines.
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
