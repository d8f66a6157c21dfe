"""transformers' own `generate` as an engine: the reference that other engines are tested against.

Legend: B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.policy.input_shift import shifted
from pama_exp.rollout.engine import (
    Sampling,
    ShiftOf,
    check_drawn,
    check_positions,
    end_tokens,
    evaluation_mode,
    responses_of,
    to_device,
)
from pama_exp.types import PromptBatch, Rollout


class HFEngine:
    """Sampling by transformers' `generate`: any architecture, slower than `FastEngine`, keeps no log-probabilities.

    Args:
        model: the policy.
        tokenizer: the policy's.
        shift_of: for a policy conditioned by its embeddings; see `RolloutEngine`.
        reason: why `choose_engine` chose this engine; None where the user did.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        shift_of: ShiftOf | None = None,
        reason: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.shift_of, self.reason = model, tokenizer, shift_of, reason

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """Sample one response per prompt, in order; see `RolloutEngine.generate`.

        Raises:
            UserError: if prompt and response do not fit the model's positions, or its logits are not finite.
        """
        check_positions(self.model, prompts, sampling)
        device = self.model.device
        prompts = to_device(prompts, device)
        ends = end_tokens(self.model, self.tokenizer)
        config = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with evaluation_mode(self.model), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed if isinstance(seed, int) else seed[0])  # `generate` draws from the global stream
            shift = None if self.shift_of is None else self.shift_of(prompts.preferences)
            with shifted(self.model, None if shift is None else shift[:, None]), sampling_alone(self.model):
                sequences = self.model.generate(
                    input_ids=prompts.input_ids,
                    attention_mask=prompts.mask.long(),
                    generation_config=config,
                    logits_processor=self.processors(prompts),
                )
        responses = sequences[:, prompts.input_ids.shape[1] :]
        lengths, finished = lengths_until(responses, ends)
        ids, mask, texts = responses_of(self.tokenizer, prompts, responses, lengths, ends)
        return Rollout(prompts, ids, mask, finished, texts)

    def processors(self, prompts: PromptBatch) -> list[Any]:
        """What the model's logits go through before a token is drawn."""
        return [_Checked()]


class _Checked(LogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """Refuses logits that are not finite before `generate` fails on them with an error of its own."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits unchanged; −inf for some tokens is allowed, for a whole row it is not."""
        check_drawn(scores.amax(-1))
        return scores


@contextmanager
def sampling_alone(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model has no generation settings of its own, which `generate` would use as defaults.

    With its penalties, filters, suppressed tokens or beams, samples would not be the policy's.
    """
    saved = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved


def lengths_until(ids: Int[Tensor, "B T"], ends: Sequence[int]) -> tuple[Int[Tensor, " B"], Tensor]:
    """Number of tokens up to and including the first of `ends`, T if there is none, and whether there is one."""
    is_end = torch.isin(ids, torch.tensor(ends, device=ids.device))
    finished = is_end.any(1)
    return torch.where(finished, is_end.int().argmax(1) + 1, ids.shape[1]), finished
