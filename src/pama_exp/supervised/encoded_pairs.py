"""Preference pairs as token ids: checked, encoded, and arranged as a rollout.

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
from pama_exp.supervised.fit import pad_right
from pama_exp.types import PromptBatch, Rollout


@dataclass(frozen=True)
class EncodedPair:
    """A pair and its token ids. Those of the responses end with the end token."""

    pair: Pair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """The number of tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, limit: int, skip: bool, may_be_empty: bool
) -> tuple[list[EncodedPair], dict[str, int]]:
    """The token ids of the usable pairs, and the numbers of the others by what is wrong with them.

    Args:
        pairs: to be encoded.
        tokenizer: the policy's.
        limit: the maximum number of tokens of a prompt and a response.
        skip: leave out pairs that cannot be used; otherwise they are an error.
        may_be_empty: whether a response may be empty.

    Raises:
        UserError: if no pair can be used, or one cannot and `skip` is false.
    """
    usable: list[EncodedPair] = []
    problems: Counter[str] = Counter()
    first = ""
    for number, pair in enumerate(pairs, start=1):
        prompt, (chosen, rejected) = encode_responses(tokenizer, pair.prompt, [pair.chosen, pair.rejected])
        end: Any = tokenizer.eos_token_id
        encoded = EncodedPair(pair, prompt, [*chosen, end], [*rejected, end])
        problem = _problem(encoded, limit, may_be_empty)
        if problem is None:
            usable.append(encoded)
        else:
            problems[problem.partition(" (")[0]] += 1
            first = first or f"{pair.place or f'pair {number}'}: {problem}"
    if problems and not skip:
        raise UserError(
            f"{sum(problems.values())} of {len(pairs)} preference pairs cannot be learned from; {first}.",
            "Mend or remove them, or set dpo.bad_pairs=skip to leave them out"
            + (" (or raise dpo.max_length)." if "too long" in problems else "."),
        )
    if not usable:
        counted = ", ".join(f"{problem}: {count}" for problem, count in problems.items()) or "there are none"
        raise UserError(
            f"Of {len(pairs)} preference pairs none can be learned from ({counted}).",
            "A pair holds a prompt and two responses that differ, each within dpo.max_length tokens.",
        )
    return usable, dict(problems)


def rollout_of(pairs: Sequence[EncodedPair], tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Rollout:
    """A rollout of 2B rows: the chosen responses of all pairs, then the rejected ones, each after its prompt."""
    responses = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    texts = [*(pair.pair.chosen for pair in pairs), *(pair.pair.rejected for pair in pairs)]
    of_rows = [*pairs, *pairs]
    width = max(len(pair.prompt) for pair in pairs)
    pad: Any = tokenizer.pad_token_id
    prompt_ids = torch.tensor([[pad] * (width - len(pair.prompt)) + pair.prompt for pair in of_rows], device=device)
    lengths = torch.tensor([len(pair.prompt) for pair in of_rows], device=device)
    prompts = PromptBatch(
        prompt_ids,
        torch.arange(width, device=device) >= (width - lengths)[:, None],
        [pair.pair.plain_prompt for pair in of_rows],
        {name: [pair.pair.columns[name] for pair in of_rows] for name in pairs[0].pair.columns},
    )
    ids, mask = pad_right(responses, tokenizer)
    is_finished = torch.ones(len(responses), dtype=torch.bool, device=device)
    return Rollout(prompts, ids.to(device), mask.to(device), is_finished, texts)


def _problem(encoded: EncodedPair, limit: int, may_be_empty: bool) -> str | None:
    """Why a pair cannot be learned from; None if it can."""
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
