"""Prompts as batches: a pure function of (seed, step), so that resuming needs no state.

Legend: N objectives, B responses, P prompt tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pama_exp.data.preferences import Given, Preferences, Writer
from pama_exp.data.streams import random_state
from pama_exp.data.tokens import Marked, encode
from pama_exp.errors import UserError
from pama_exp.types import PromptBatch


def collate(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
) -> PromptBatch:
    """Tokenize and pad on the left.

    Raises:
        UserError: if a prompt has no tokens.
    """
    rows = encode(tokenizer, texts)
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise UserError(f"The prompt {text!r} has no tokens.", "Remove empty prompts from the data.")
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(longest) >= (longest - lengths)[:, None]
    begun = [text.prefill if isinstance(text, Marked) else "" for text in texts]
    return PromptBatch(ids, mask, list(texts), dict(columns or {}), prefills=begun if any(begun) else None)


class PromptStream:
    """Shuffled epochs without replacement; `batch(step)` is a pure function of (seed, step).

    Args:
        texts: the prompts, as the policy reads them.
        tokenizer: the policy's.
        prompts_per_step: distinct prompts per step.
        seed: of the order.
        group_size: responses per prompt; each prompt is repeated that often, consecutively.
        columns: whatever else is known of each prompt, handed on to scorers.
        preferences: of a conditioned policy: what each prompt is to be answered by; the answers of a group share it.
        writer: puts the preference before what the policy reads; scorers read the prompt without it.
        said: the prompts as scorers and people read them, where the policy reads them in a chat template.

    Raises:
        UserError: if there are fewer prompts than a step needs.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        prompts_per_step: int,
        seed: int,
        group_size: int = 1,
        columns: Mapping[str, Sequence[Any]] | None = None,
        preferences: Preferences | None = None,
        writer: Writer | None = None,
        said: Sequence[str] | None = None,
    ) -> None:
        if not 1 <= prompts_per_step <= len(texts):
            raise UserError(
                f"A step takes {prompts_per_step} prompts; the data has {len(texts)}.",
                f"Set the batch size so that a step takes between 1 and {len(texts)}.",
            )
        self.texts, self.tokenizer, self.columns = list(texts), tokenizer, dict(columns or {})
        self.said = self.texts if said is None else list(said)
        self.prompts_per_step, self.seed, self.group_size = prompts_per_step, seed, group_size
        self.preferences, self.writer = preferences, writer

    def asking(self, preference: Sequence[float]) -> PromptStream:
        """The same prompts, all to be answered by this preference."""
        other = copy.copy(self)
        other.preferences = Given(tuple(preference))
        return other

    def batch(self, step: int) -> PromptBatch:
        """The prompts of this step."""
        first = step * self.prompts_per_step
        wanted = range(first, first + self.prompts_per_step)
        orders = {epoch: self._order(epoch) for epoch in {i // len(self.texts) for i in wanted}}
        rows = [orders[i // len(self.texts)][i % len(self.texts)] for i in wanted]
        return self._collate(rows, step, self.group_size)

    def slices(self, batch_size: int) -> Iterator[PromptBatch]:
        """All prompts once, in order."""
        for index, start in enumerate(range(0, len(self.texts), batch_size)):
            yield self._collate(list(range(start, min(start + batch_size, len(self.texts)))), index)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(random_state(self.seed, epoch, "prompts"))
        return torch.randperm(len(self.texts), generator=generator).tolist()

    def _collate(self, distinct: Sequence[int], step: int, repeats: int = 1) -> PromptBatch:
        rows = [row for row in distinct for _ in range(repeats)]
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        read, said = [self.texts[i] for i in rows], [self.said[i] for i in rows]
        asked = None
        if self.preferences is not None:
            asked = self._asked(step, len(distinct)).repeat_interleave(repeats, dim=0)
        if self.writer is not None and asked is not None:
            read = [self.writer.write(text, row) for text, row in zip(read, asked.tolist(), strict=True)]
        return replace(collate(self.tokenizer, read, columns), texts=said, preferences=asked)

    def _asked(self, step: int, count: int) -> Float[Tensor, "count N"]:
        assert self.preferences is not None
        drawn = self.preferences(step, count)
        return drawn if self.writer is None else self.writer.rounded(drawn)
