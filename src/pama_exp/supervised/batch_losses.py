"""The losses of SFT on demonstrations and of reward models on preference pairs, and their batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.data.tokens import encode_pair, encode_whole
from pama_exp.errors import UserError
from pama_exp.policy.loading import max_positions
from pama_exp.rewards.classifier import logits_of
from pama_exp.supervised.fit import pad_right

_TEXTS_PER_PASS = 16  # of a batch of pairs: more of them hold more padding, fewer use the processor less well
Example = tuple[int, list[int]]  # the prompt's number of tokens, and the ids of prompt, response and end token


def encode(
    demonstrations: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    """The token ids of (prompt, response) pairs. Those of more than `max_length` tokens are left out.

    Raises:
        UserError: if all are longer.
    """
    pairs = [encode_pair(tokenizer, prompt, response) for prompt, response in demonstrations]
    encoded = [(len(p), [*p, *r, tokenizer.eos_token_id]) for p, r in pairs]
    examples = [example for example in encoded if len(example[1]) <= max_length]
    if not examples:
        shortest = min(len(ids) for _, ids in encoded)
        raise UserError(
            f"Every demonstration is longer than {max_length} tokens (the shortest has {shortest}).",
            "Set sft.max_length, or choose a model with more positions.",
        )
    return examples


def response_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy of the tokens of the responses, end tokens included, in nats. Prompts have no loss."""
    ids, mask = pad_right([ids for _, ids in examples], tokenizer)
    starts = torch.tensor([start for start, _ in examples])[:, None]
    is_response = mask & (torch.arange(ids.shape[1]) >= starts)
    labels = ids.masked_fill(~is_response, -100)[:, 1:].to(model.device)
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
    return functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def packed_response_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Example]]
) -> Tensor:
    """`response_loss` of rows of several examples. An example attends only to itself; its positions start at 0."""
    ids, _ = pad_right([[token for _, ids in row for token in ids] for row in rows], tokenizer)
    labels, segments, positions = torch.full_like(ids, -100), torch.full_like(ids, -1), torch.zeros_like(ids)
    for r, row in enumerate(rows):
        at = 0
        for number, (start, example) in enumerate(row):
            stop = at + len(example)
            segments[r, at:stop], positions[r, at:stop] = number, torch.arange(len(example))
            labels[r, at + start : stop] = ids[r, at + start : stop]
            at = stop
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    # Padding is a separate segment, so that every position attends to at least one.
    is_allowed = causal & (segments[:, :, None] == segments[:, None, :])
    bias = torch.zeros(is_allowed.shape, dtype=model.dtype).masked_fill(~is_allowed, torch.finfo(model.dtype).min)
    logits = model(
        input_ids=ids.to(model.device),
        attention_mask=bias[:, None].to(model.device),
        position_ids=positions.to(model.device),
        use_cache=False,
    ).logits[:, :-1]
    labels = labels[:, 1:].to(model.device)
    return functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Rows of at most `max_length` tokens, as indices of examples. Each example goes into the first row that fits."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index, length in enumerate(lengths):
        row = next((r for r, tokens in enumerate(free) if tokens >= length), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(max_length)
        rows[row].append(index)
        free[row] -= length
    return rows


def pair_texts(pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    """Prompt and response of all chosen responses, then of all rejected ones, joined as `ClassifierScorer` does."""
    texts = [f"{prompt} {chosen}" for prompt, chosen, _ in pairs]
    return [text.strip() for text in [*texts, *(f"{prompt} {rejected}" for prompt, _, rejected in pairs)]]


def pair_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str, str]]
) -> tuple[Tensor, Tensor]:
    """The classifier's rewards of the chosen responses (B,) and of the rejected ones (B,).

    Texts of similar length share a pass, so that there is little padding.
    """
    rows = encode_whole(tokenizer, pair_texts(pairs))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    groups = [order[at : at + _TEXTS_PER_PASS] for at in range(0, len(order), _TEXTS_PER_PASS)]
    logits = [logits_of(model, [rows[i] for i in group], tokenizer.pad_token_id)[:, 0] for group in groups]
    rewards = torch.cat(logits)[torch.tensor(order).argsort().to(model.device)]
    return rewards[: len(pairs)], rewards[len(pairs) :]


def preference_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str, str]]
) -> Tensor:
    """The mean of −log σ(r(x, y₊) − r(x, y₋)) over the pairs (Bradley & Terry 1952)."""
    chosen, rejected = pair_scores(model, tokenizer, pairs)
    return -functional.logsigmoid(chosen - rejected).mean()


def max_tokens(model: PreTrainedModel, max_length: int) -> int:
    """The maximum number of tokens of a text: `max_length`, or the model's positions if they are fewer."""
    positions = max_positions(model)
    return max_length if positions is None else min(max_length, positions)
