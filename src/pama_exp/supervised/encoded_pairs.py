"""Preference pairs as the policy learns from them: checked, encoded, and put side by side as a rollout.

Legend: B pairs, P prompt tokens, T response tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from pama_exp.data.pairs import Pair
from pama_exp.data.tokens import encode_responses
from pama_exp.errors import UserError
from pama_exp.types import PromptBatch, Rollout


@dataclass(frozen=True)
class EncodedPair:
    """A pair and its token ids; those of the responses end with the end token."""

    pair: Pair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, limit: int, skip: bool, may_be_empty: bool
) -> tuple[list[EncodedPair], dict[str, int]]:
    """Token ids of the pairs that can be learned from, and how many of the others there are, by what is wrong.

    Args:
        pairs: to be encoded.
        tokenizer: the policy's.
        limit: tokens of a prompt and a response at most.
        skip: leave out pairs that cannot be learned from; else they are refused.
        may_be_empty: whether saying nothing is a response.

    Raises:
        UserError: for the first such pair where they are not skipped, and if none is left.
    """
    kept: list[EncodedPair] = []
    wrong: Counter[str] = Counter()
    first = ""
    for number, pair in enumerate(pairs, start=1):
        encoded = _encode(pair, tokenizer)
        reason = _why_not(encoded, limit, may_be_empty)
        if reason is None:
            kept.append(encoded)
        else:
            wrong[reason.partition(" (")[0]] += 1
            first = first or f"{pair.place or f'pair {number}'}: {reason}"
    if wrong and not skip:
        raise UserError(
            f"{sum(wrong.values())} of {len(pairs)} preference pairs cannot be learned from; {first}.",
            "Mend or remove them, or set dpo.bad_pairs=skip to leave them out"
            + (" (or raise dpo.max_length)." if "too long" in wrong else "."),
        )
    if not kept:
        counted = ", ".join(f"{reason}: {count}" for reason, count in wrong.items()) or "there are none"
        raise UserError(
            f"Of {len(pairs)} preference pairs none can be learned from ({counted}).",
            "A pair holds a prompt and two responses that differ, each within dpo.max_length tokens.",
        )
    return kept, dict(wrong)


def rollout_of(pairs: Sequence[EncodedPair], tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Rollout:
    """2B rows: the chosen responses of all pairs, then the rejected ones, each after its prompt."""
    both = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    texts = [*(pair.pair.chosen for pair in pairs), *(pair.pair.rejected for pair in pairs)]
    asked = [*pairs, *pairs]
    width, length = max(len(pair.prompt) for pair in pairs), max(map(len, both))
    pad: Any = tokenizer.pad_token_id
    prompt_ids = torch.tensor([[pad] * (width - len(pair.prompt)) + pair.prompt for pair in asked], device=device)
    lengths = torch.tensor([len(pair.prompt) for pair in asked], device=device)
    prompts = PromptBatch(
        prompt_ids,
        torch.arange(width, device=device) >= (width - lengths)[:, None],
        [pair.pair.said for pair in asked],
        {name: [pair.pair.columns[name] for pair in asked] for name in pairs[0].pair.columns},
    )
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in both], device=device)
    mask = torch.arange(length, device=device) < torch.tensor([len(row) for row in both], device=device)[:, None]
    return Rollout(prompts, ids, mask, torch.ones(len(both), dtype=torch.bool, device=device), texts)


def _encode(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> EncodedPair:
    prompt, (chosen, rejected) = encode_responses(tokenizer, pair.prompt, [pair.chosen, pair.rejected])
    end: Any = tokenizer.eos_token_id
    return EncodedPair(pair, prompt, [*chosen, end], [*rejected, end])


def _why_not(encoded: EncodedPair, limit: int, may_be_empty: bool) -> str | None:
    """What is wrong with a pair; None where nothing is."""
    pair = encoded.pair
    if not may_be_empty and not (pair.chosen.strip() and pair.rejected.strip()):
        return "a response is empty"
    if pair.chosen == pair.rejected or encoded.chosen == encoded.rejected:
        return "its two responses are the same"
    if not encoded.prompt:
        return "its prompt is empty"
    if encoded.length > limit:
        return f"too long ({encoded.length} tokens, {limit} at most)"
    return None
