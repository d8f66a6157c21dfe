"""The protocol of rollout engines, and what the engines share.

Legend: B responses, b unfinished responses, T response tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.schema import SamplingConfig
from pama_exp.config.validity import check_fields
from pama_exp.errors import UserError
from pama_exp.parallel.finite import require_finite
from pama_exp.types import PromptBatch, Rollout

_BROKEN_MODEL = "Its weights are broken, or its numbers too large for their type: start from sound ones."


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: at most `max_new_tokens` per response, after temperature, top-p and top-k (0: all tokens).

    Raises:
        UserError: for a value outside its range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        check_fields(self, SamplingConfig, "rollout.sampling.")

    def for_training(self) -> Sampling:
        """These settings, if training can use them: no tokens are filtered.

        Raises:
            UserError: for top-p or top-k, under which the update would compute ratios of other distributions.
        """
        if self.top_p != 1.0 or self.top_k != 0:
            raise UserError(
                f"rollout.sampling.top_p={self.top_p}, top_k={self.top_k} filter tokens, which biases the update.",
                "Set top_p=1.0 and top_k=0; temperature is applied on both sides.",
            )
        return self


# From the prompts' preferences (B, N) to the shift of each row's input embeddings (B, E).
ShiftOf = Callable[[Tensor | None], Tensor | None]


@runtime_checkable
class RolloutEngine(Protocol):
    """An engine that samples responses to prompts.

    Its constructor takes `model` and `tokenizer`. An engine for policies that are conditioned by their embeddings also
    takes `shift_of`, which is None for other policies.
    """

    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """Sample one response per prompt, in order.

        The same seed gives the same responses; global random streams are left unchanged. With one seed per prompt, a
        response does not depend on the other prompts of the batch.
        """
        ...


def uniform_noise(seed: int | Sequence[int], rows: int, steps: int) -> Float[Tensor, "rows steps"]:
    """One uniform number in [0, 1) per token, from one random stream for all responses or one per response.

    The number alone decides the token. It does not depend on the order in which rows are decoded, on the other rows, or
    on when they end. With one seed per response it does not depend on the number of processes either.
    """
    if isinstance(seed, int):
        return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(s)) for s in seed])


def draw(
    logits: Float[Tensor, "b V"], sampling: Sampling, noise: Float[Tensor, " b"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Draw one token per row, after temperature, top-k and top-p in this order, and its log-probability after them.

    By inversion: the first token at which the cumulative probability exceeds the row's noise. `logits` are overwritten.
    Logits that are not finite give a log-probability of NaN, which `check_drawn` finds.
    """
    if sampling.temperature != 1.0:
        logits = logits.div_(sampling.temperature)
    if sampling.top_k > 0:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill_(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits = logits.masked_fill_((before >= sampling.top_p).gather(-1, order.argsort(-1)), -torch.inf)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum(noise[:, None] * total, total.nextafter(torch.zeros_like(total)))  # below the total
    tokens = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)  # beyond only for NaN
    return tokens[:, 0], (weights.gather(-1, tokens) / total).log()[:, 0]


def check_drawn(log_probs: Float[Tensor, "*rows"]) -> None:
    """Check once per generation that tokens were drawn from valid distributions.

    Raises:
        UserError: if a log-probability or logit is NaN or infinite.
    """
    require_finite({"A log-probability of the model that generates": log_probs}, _BROKEN_MODEL)


def check_positions(model: PreTrainedModel, prompts: PromptBatch, sampling: Sampling) -> None:
    """Check that the longest prompt and response fit into the model's positions.

    Raises:
        UserError: if they do not.
    """
    positions, length = getattr(model.config, "max_position_embeddings", None), prompts.input_ids.shape[1]
    if positions is not None and length + sampling.max_new_tokens > positions:
        raise UserError(
            f"Prompts of {length} tokens and responses of {sampling.max_new_tokens} exceed the "
            f"model's {positions} positions.",
            "Lower rollout.sampling.max_new_tokens or shorten the prompts.",
        )


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode within the block: no dropout, as in the update, and compiled transformer blocks run eagerly."""
    was_training = model.training
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(was_training)


def to_device(prompts: PromptBatch, device: torch.device) -> PromptBatch:
    """The prompts with their tensors moved to the device."""
    preferences = None if prompts.preferences is None else prompts.preferences.to(device)
    return replace(
        prompts, input_ids=prompts.input_ids.to(device), mask=prompts.mask.to(device), preferences=preferences
    )


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end a response: the tokenizer's, and those of the model's generation configuration."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [] if configured is None else [configured]
    return sorted({int(tokenizer.eos_token_id), *ids})


def responses_of(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptBatch,
    ids: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    ends: Sequence[int],
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"], list[str]]:
    """Response ids with padding after each response's length, their mask, and the texts.

    A text starts with the prompt's prefill, if it has one, and leaves out the end token, one of `ends`.
    """
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    ids = torch.where(mask, ids, tokenizer.pad_token_id)
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    rows = [row[:-1] if row and row[-1] in ends else row for row in rows]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    if prompts.prefills is not None:
        texts = [prefill + text for prefill, text in zip(prompts.prefills, texts, strict=True)]
    return ids, mask, texts


def quantised(where: str) -> UserError:
    """The error of an engine, named `where`, that needs full weights and got a quantised base."""
    return UserError(
        f"{where} is given the policy's weights in full, and those of a quantised base are not.",
        "Use adapter=lora, or rollout=hf.",
    )
