"""The losses of supervised training: of responses given their prompts, and of pairs given which is preferred."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.errors import UserError
from pama_exp.policy.loading import max_positions
from pama_exp.stages.fitting import pad_right

Example = tuple[int, list[int]]  # tokens of the prompt, then ids of prompt, response and end


def encode(
    demonstrations: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    """Token ids of (prompt, response) pairs; those longer than `max_length` are left out.

    Raises:
        UserError: if all are.
    """
    prompts = tokenizer([prompt for prompt, _ in demonstrations])["input_ids"]
    responses = tokenizer([response for _, response in demonstrations], add_special_tokens=False)["input_ids"]
    whole = [(len(p), [*p, *r, tokenizer.eos_token_id]) for p, r in zip(prompts, responses, strict=True)]
    kept = [example for example in whole if len(example[1]) <= max_length]
    if not kept:
        shortest = min(len(ids) for _, ids in whole)
        raise UserError(
            f"Every demonstration is longer than {max_length} tokens (the shortest has {shortest}).",
            "Set sft.max_length, or choose a model with more positions.",
        )
    return kept


def response_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy of the responses' tokens, their ends included; prompts are given, not learned."""
    ids, mask = pad_right([ids for _, ids in examples], tokenizer)
    starts = torch.tensor([start for start, _ in examples])[:, None]
    is_response = mask & (torch.arange(ids.shape[1]) >= starts)
    labels = ids.masked_fill(~is_response, -100)[:, 1:].to(model.device)
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
    return functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def pair_texts(pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    """The texts of all chosen responses, then of all rejected ones, as `ClassifierScorer` puts them by default."""
    texts = [f"{prompt} {chosen}" for prompt, chosen, _ in pairs]
    return [text.strip() for text in [*texts, *(f"{prompt} {rejected}" for prompt, _, rejected in pairs)]]


def pair_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str, str]]
) -> tuple[Tensor, Tensor]:
    """(B,) the classifier's rewards of the chosen responses, and of the rejected ones."""
    ids, mask = pad_right([tokenizer(text)["input_ids"] for text in pair_texts(pairs)], tokenizer)
    ids, mask = ids.to(model.device), mask.to(model.device)
    rewards = model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
    return rewards[: len(pairs)], rewards[len(pairs) :]


def preference_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str, str]]
) -> Tensor:
    """−log σ(r(x, y₊) − r(x, y₋)), the mean over pairs (Bradley & Terry 1952)."""
    chosen, rejected = pair_scores(model, tokenizer, pairs)
    return -functional.logsigmoid(chosen - rejected).mean()


def room(model: PreTrainedModel, max_length: int) -> int:
    """Tokens of a text at most: what is asked for, within the model's positions."""
    positions = max_positions(model)
    return max_length if positions is None else min(max_length, positions)
