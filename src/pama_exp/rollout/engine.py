"""Responses sampled from the policy, behind one protocol.

Legend: B responses, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.errors import UserError
from pama_exp.types import PromptBatch, Rollout


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Raises:
        UserError: for a value outside its range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"rollout.sampling.max_new_tokens={self.max_new_tokens}.", "It is at least 1.")
        if not self.temperature > 0:  # so that NaN is refused too
            raise UserError(f"rollout.sampling.temperature={self.temperature}.", "It is above 0; 1.0 changes nothing.")
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"rollout.sampling.top_p={self.top_p}.", "It is above 0 and at most 1, which keeps all tokens."
            )
        if self.top_k < 0:
            raise UserError(f"rollout.sampling.top_k={self.top_k}.", "It is at least 0, which keeps all tokens.")

    def for_training(self) -> Sampling:
        """Itself, if the log-probabilities of what it draws can be had at the update.

        Raises:
            UserError: if tokens are filtered: the ratio of new to old policy would then be of other distributions.
        """
        if self.top_p != 1.0 or self.top_k != 0:
            raise UserError(
                f"rollout.sampling.top_p={self.top_p}, top_k={self.top_k} filter tokens, which biases the update.",
                "Set top_p=1.0 and top_k=0; temperature is applied on both sides.",
            )
        return self


@runtime_checkable
class RolloutEngine(Protocol):
    """Prompts in, responses out."""

    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """One response per prompt; the same seed gives the same responses and leaves global streams alone.

        With one seed per prompt, a prompt's response does not depend on which others are generated beside it.
        """
        ...


class DecodeEngine:
    """Batched sampling with the model's own key-value cache."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """See `RolloutEngine`.

        Raises:
            UserError: if prompt and response do not fit the model's positions.
        """
        was_training = self.model.training
        self.model.eval()  # dropout would make the log-probabilities at the update other than those drawn from
        try:
            return self._decode(prompts, sampling, seed)
        finally:
            self.model.train(was_training)

    def _decode(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        device = self.model.device
        noise = uniform_noise(seed, len(prompts), sampling.max_new_tokens).to(device)
        ids, mask = prompts.input_ids.to(device), prompts.mask.to(device)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is not None and ids.shape[1] + sampling.max_new_tokens > positions:
            raise UserError(
                f"Prompts of {ids.shape[1]} tokens and responses of {sampling.max_new_tokens} exceed the "
                f"model's {positions} positions.",
                "Lower rollout.sampling.max_new_tokens or shorten the prompts.",
            )
        takes_positions = self.model.config.model_type != "opt"
        attention, feed = mask.long(), ids
        position = (attention.cumsum(1) - 1).clamp(min=0)
        finished = torch.zeros(len(ids), dtype=torch.bool, device=device)
        tokens, valid, cache = [], [], None
        for step in range(sampling.max_new_tokens):
            extra = {"position_ids": position} if takes_positions else {}
            output = self.model(
                input_ids=feed,
                attention_mask=attention,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **extra,
            )
            cache = output.past_key_values
            chosen = draw(output.logits[:, -1].float(), sampling, noise[:, step])
            valid.append(~finished)
            tokens.append(torch.where(finished, self.tokenizer.pad_token_id, chosen))
            finished = finished | (chosen == self.tokenizer.eos_token_id)
            if bool(finished.all()):
                break
            feed, position = tokens[-1][:, None], position[:, -1:] + 1
            attention = torch.cat([attention, torch.ones_like(feed)], dim=1)
        response_ids, response_mask = torch.stack(tokens, 1), torch.stack(valid, 1)
        rows = [row[keep].tolist() for row, keep in zip(response_ids.cpu(), response_mask.cpu(), strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        moved = PromptBatch(input_ids=ids, mask=mask, texts=prompts.texts, columns=prompts.columns)
        return Rollout(moved, response_ids, response_mask, finished, texts)


def uniform_noise(seed: int | Sequence[int], rows: int, steps: int) -> Float[Tensor, "rows steps"]:
    """The one number in [0, 1) that decides each token: of one stream for all rows, or of a stream for each.

    So what is drawn does not depend on what an engine does for speed: the order and the company in which rows are
    decoded. With a seed per row, neither does it depend on how many processes share the rows.
    """
    if isinstance(seed, int):
        return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(s)) for s in seed])


def draw(logits: Float[Tensor, "B V"], sampling: Sampling, noise: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """One token per row after temperature, top-k and top-p, in this order.

    By inversion: the first token at which the cumulated probability exceeds the row's noise.
    """
    scaled = logits / sampling.temperature
    if sampling.top_k > 0:
        kth = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = scaled.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        scaled = scaled.masked_fill((before >= sampling.top_p).gather(-1, order.argsort(-1)), -torch.inf)
    reached = scaled.softmax(-1).cumsum(-1)
    total = reached[:, -1:]
    aim = torch.minimum(noise[:, None] * total, total.nextafter(torch.zeros_like(total)))  # below the total
    return torch.searchsorted(reached, aim, right=True)[:, 0]
