"""Responses sampled from the policy, behind one protocol, and what its engines share.

Legend: B responses, b of them still speaking, T response tokens, V tokens of the vocabulary.
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

BROKEN_MODEL = "Its weights are broken, or its numbers too large for their type: start from sound ones."


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
        check_fields(self, SamplingConfig, "rollout.sampling.")

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


# From the prompts' preferences (B, N) to what is added to the input embeddings of each row's tokens (B, E).
ShiftOf = Callable[[Tensor | None], Tensor | None]


@runtime_checkable
class RolloutEngine(Protocol):
    """Prompts in, responses out.

    An engine takes `model` and `tokenizer`; one that serves a policy conditioned by its embeddings also takes
    `shift_of`, which is None for other policies.
    """

    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """One response per prompt, in order; the same seed gives the same ones and leaves global streams alone.

        With one seed per prompt, a response does not depend on which others are generated beside it.
        """
        ...


def uniform_noise(seed: int | Sequence[int], rows: int, steps: int) -> Float[Tensor, "rows steps"]:
    """The one number in [0, 1) that decides each token, from one stream for all responses or from one for each.

    So what is drawn depends on nothing that an engine does for speed: not on the order or the company in which rows are
    decoded, nor on when others end. With a seed per response, neither does it depend on how many processes share them.
    """
    if isinstance(seed, int):
        return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(s)) for s in seed])


def draw(
    logits: Float[Tensor, "b V"], sampling: Sampling, noise: Float[Tensor, " b"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """One token per row after temperature, top-k and top-p, in this order, and its log-probability after them.

    By inversion: the first token at which the cumulated probability exceeds the row's noise. `logits` are overwritten.
    Of logits that are not finite the log-probability is NaN, for `check_drawn` to find.
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
    reached = weights.cumsum(-1)
    total = reached[:, -1:]
    aim = torch.minimum(noise[:, None] * total, total.nextafter(torch.zeros_like(total)))  # below the total
    tokens = torch.searchsorted(reached, aim, right=True).clamp(max=logits.shape[-1] - 1)  # beyond it for NaN alone
    return tokens[:, 0], (weights.gather(-1, tokens) / total).log()[:, 0]


def check_drawn(log_probs: Float[Tensor, "*rows"]) -> None:
    """The tokens were drawn from distributions: what says so is asked once for a whole generation.

    Raises:
        UserError: if a log-probability or logit is NaN or infinite.
    """
    require_finite({"A log-probability of the model that generates": log_probs}, BROKEN_MODEL)


def check_positions(model: PreTrainedModel, prompts: PromptBatch, sampling: Sampling) -> None:
    """The longest prompt and response fit into the model's positions.

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
    """No dropout, which would make the log-probabilities at the update other than those drawn from.

    Blocks that are compiled for the update run as they were written.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(was_training)


def to_device(prompts: PromptBatch, device: torch.device) -> PromptBatch:
    """The prompts' tensors where the model is."""
    preferences = None if prompts.preferences is None else prompts.preferences.to(device)
    return replace(
        prompts, input_ids=prompts.input_ids.to(device), mask=prompts.mask.to(device), preferences=preferences
    )


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: the tokenizer's end token, and those that the model's generation configuration
    names besides, such as the one that ends a turn of a chat."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    named = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({int(tokenizer.eos_token_id), *named})


def responses_of(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptBatch,
    ids: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    ends: Sequence[int],
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"], list[str]]:
    """Ids with padding after each response's length, the mask, and the texts.

    Texts begin with what the prompt's template has begun of the answer, and are without the token of `ends` that ends.
    """
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    ids = torch.where(mask, ids, tokenizer.pad_token_id)
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    rows = [row[:-1] if row and row[-1] in ends else row for row in rows]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    if prompts.prefills is not None:
        texts = [begun + text for begun, text in zip(prompts.prefills, texts, strict=True)]
    return ids, mask, texts


def quantised(where: str) -> UserError:
    """An engine that is handed weights cannot be handed those of few bits."""
    return UserError(
        f"{where} is given the policy's weights in full, and those of a quantised base are not.",
        "Use adapter=lora, or rollout=hf.",
    )
