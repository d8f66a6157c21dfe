"""Batches of prompts as a pure function of (seed, step), so that resuming a run needs no state.

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

from pama_exp.data.preferences import FixedPreference, Preferences, Writer
from pama_exp.data.streams import random_state
from pama_exp.data.tokens import Marked, encode
from pama_exp.errors import UserError
from pama_exp.types import PromptBatch


def collate(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
) -> PromptBatch:
    """Tokenize prompts and pad them on the left.

    Args:
        tokenizer: the policy's.
        texts: B prompts as the policy reads them.
        columns: other columns of the data, each of length B.

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
    prefills = [text.prefill if isinstance(text, Marked) else "" for text in texts]
    return PromptBatch(ids, mask, list(texts), dict(columns or {}), prefills=prefills if any(prefills) else None)


class PromptStream:
    """Prompts in epochs, each shuffled anew; `batch(step)` is a pure function of (seed, step).

    Args:
        texts: the prompts, as the policy reads them.
        tokenizer: the policy's.
        prompts_per_step: distinct prompts per step.
        seed: of the order.
        group_size: responses per prompt; each prompt is repeated this often, consecutively.
        columns: other columns of the data, one value per prompt. Scorers get them.
        preferences: gives each prompt its preference, for a conditioned policy. Repeats of a prompt share it.
        writer: writes the preference before the prompt that the policy reads. Scorers read the prompt without it.
        plain_texts: the prompts without chat template, as scorers and people read them; by default `texts`.

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
        plain_texts: Sequence[str] | None = None,
    ) -> None:
        if not 1 <= prompts_per_step <= len(texts):
            raise UserError(
                f"A step takes {prompts_per_step} prompts; the data has {len(texts)}.",
                f"Set the batch size so that a step takes between 1 and {len(texts)}.",
            )
        self.texts, self.tokenizer, self.columns = list(texts), tokenizer, dict(columns or {})
        self.plain_texts = self.texts if plain_texts is None else list(plain_texts)
        self.prompts_per_step, self.seed, self.group_size = prompts_per_step, seed, group_size
        self.preferences, self.writer = preferences, writer

    def with_preference(self, preference: Sequence[float]) -> PromptStream:
        """The same prompts, all with this preference (N,)."""
        other = copy.copy(self)
        other.preferences = FixedPreference(tuple(preference))
        return other

    def batch(self, step: int) -> PromptBatch:
        """The batch of a step: prompts_per_step times group_size rows."""
        first = step * self.prompts_per_step
        wanted = range(first, first + self.prompts_per_step)
        orders = {epoch: self._order(epoch) for epoch in {i // len(self.texts) for i in wanted}}
        rows = [orders[i // len(self.texts)][i % len(self.texts)] for i in wanted]
        return self._collate(rows, step, self.group_size)

    def slices(self, batch_size: int) -> Iterator[PromptBatch]:
        """Batches of at most `batch_size` that hold all prompts once, in order."""
        for index, start in enumerate(range(0, len(self.texts), batch_size)):
            yield self._collate(list(range(start, min(start + batch_size, len(self.texts)))), index)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(random_state(self.seed, epoch, "prompts"))
        return torch.randperm(len(self.texts), generator=generator).tolist()

    def _collate(self, distinct: Sequence[int], step: int, repeats: int = 1) -> PromptBatch:
        rows = [row for row in distinct for _ in range(repeats)]
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        texts = [self.texts[i] for i in rows]
        preferences: Float[Tensor, "B N"] | None = None
        if self.preferences is not None:
            drawn = self.preferences(step, len(distinct))
            rounded = drawn if self.writer is None else self.writer.rounded(drawn)
            preferences = rounded.repeat_interleave(repeats, dim=0)
            if self.writer is not None:
                texts = [self.writer.write(text, row) for text, row in zip(texts, preferences.tolist(), strict=True)]
        batch = collate(self.tokenizer, texts, columns)
        return replace(batch, texts=[self.plain_texts[i] for i in rows], preferences=preferences)
