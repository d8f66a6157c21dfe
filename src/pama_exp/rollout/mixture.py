"""Several models of one vocabulary decoded as one: the next token's logits are a weighted sum of theirs.

Source: Shi et al. 2024, "Decoding-time language model alignment with multiple objectives", arXiv 2406.18853; the sum is
the one for the reverse KL. Legend: E models, b rows, P prompt tokens, L places of the cache, H their hidden widths'
sum, V tokens of the vocabulary, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.errors import UserError
from pama_exp.policy.logits import Head, head_of
from pama_exp.rollout.engine import Sampling, evaluation_mode
from pama_exp.rollout.fast import CannotDecodeError, FastEngine
from pama_exp.rollout.hf import HFEngine
from pama_exp.rollout.probe import Reader, why_not_fast
from pama_exp.types import PromptBatch, Rollout


def check_mixable(models: Sequence[PreTrainedModel], tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
    """The models have logits over the same tokens.

    Raises:
        UserError: if not.
    """
    sizes = {model.get_output_embeddings().weight.shape[0] for model in models}
    if len(sizes) > 1 or any(one.get_vocab() != tokenizers[0].get_vocab() for one in tokenizers):
        raise UserError("The models to be mixed have other vocabularies.", "Mix models that have the same tokenizer.")


class MixedFastEngine(FastEngine):
    """`FastEngine` for the mixture Σ wᵉ zᵉ of models' logits z: E caches, E passes for each token.

    Args:
        models: of one vocabulary.
        tokenizer: theirs.
        weights: one per model; where they sum to 1 the mixture is Π πᵉ ^ wᵉ, normalised.
        rows_at_once: as of `FastEngine`.

    Attributes:
        reason: None; as of `HFEngine`.

    Raises:
        CannotDecodeError: if one of the models is not decoded by `FastEngine`.
    """

    reason: str | None = None

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        weights: Sequence[float],
        rows_at_once: int | None = None,
    ) -> None:
        super().__init__(models[0], tokenizer, rows_at_once)
        for model in models[1:]:
            reason = why_not_fast(model)
            if reason is not None:
                raise CannotDecodeError(model.config.model_type, reason)
        self.models = list(models)
        self.head: Head = _MixedHead([head_of(model) for model in models], _widths(models), weights)

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """See `RolloutEngine`; states and log-probabilities are of no single policy, and are not kept."""
        made = super().generate(prompts, sampling, seed)
        return Rollout(made.prompts, made.response_ids, made.response_mask, made.finished, made.texts)

    def reader(self, capacity: int) -> Any:
        """All models' caches and passes as one."""
        return _MixedReader([Reader(model, capacity) for model in self.models])


class MixedHFEngine(HFEngine):
    """transformers' `generate` for the same mixture, of any architecture: the other models read the whole text anew.

    Each token so takes E passes, E − 1 of them over all tokens before it: right, and slow.

    Args:
        models: of one vocabulary; the first is the one that generates.
        tokenizer: theirs.
        weights: one per model.
        reason: why it was chosen, where it was not asked for.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        weights: Sequence[float],
        reason: str | None = None,
    ) -> None:
        super().__init__(models[0], tokenizer, None, reason)
        self.models, self.weights = list(models), list(weights)

    def processors(self, prompts: PromptBatch) -> list[Any]:
        """What `generate` has done to the first model's logits."""
        return [_Mixed(self.models[1:], self.weights, prompts.mask), *super().processors(prompts)]


def mixed_engine(
    models: Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    weights: Sequence[float],
    by_transformers: bool = False,
    rows_at_once: int | None = None,
) -> MixedFastEngine | MixedHFEngine:
    """The fast engine where it decodes all models, else transformers' own, whose `reason` then says why.

    Args:
        models: of one vocabulary.
        tokenizer: theirs.
        weights: one per model.
        by_transformers: take transformers' own in any case.
        rows_at_once: of the fast engine.
    """
    if by_transformers:
        return MixedHFEngine(models, tokenizer, weights)
    try:
        return MixedFastEngine(models, tokenizer, weights, rows_at_once)
    except CannotDecodeError as error:
        return MixedHFEngine(models, tokenizer, weights, error.reason)


class _MixedHead:
    """From the models' last hidden states side by side to the sum of their logits."""

    def __init__(self, heads: Sequence[Head], widths: Sequence[int], weights: Sequence[float]) -> None:
        self.heads, self.widths, self.weights = list(heads), list(widths), list(weights)

    def __call__(self, states: Float[Tensor, "b H"]) -> Float[Tensor, "b V"]:
        parts = torch.split(states, self.widths, dim=-1)
        return _mixed([head(part) for head, part in zip(self.heads, parts, strict=True)], self.weights)


class _MixedReader:
    """Readers side by side, and their caches as one."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers, self.cache = list(readers), _Caches([reader.cache for reader in readers])

    def prompts(self, ids: Int[Tensor, "b P"], given: Bool[Tensor, "b P"]) -> Float[Tensor, "b H"]:
        """See `Reader`."""
        return torch.cat([reader.prompts(ids, given) for reader in self.readers], dim=-1)

    def tokens(
        self,
        tokens: Int[Tensor, " b"],
        position: Int[Tensor, " b"],
        bias: Float[Tensor, "b 1 1 L"],
        place: Int[Tensor, " 1"] | None = None,
    ) -> Float[Tensor, "b H"]:
        """See `Reader`."""
        return torch.cat([reader.tokens(tokens, position, bias, place) for reader in self.readers], dim=-1)


class _Caches:
    def __init__(self, caches: Sequence[Any]) -> None:
        self.caches = list(caches)

    def repeat(self, rows: Tensor) -> None:
        for cache in self.caches:
            cache.repeat(rows)

    def keep(self, rows: Tensor) -> None:
        for cache in self.caches:
            cache.keep(rows)


class _Mixed(LogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """The first model's logits mixed with those of the others, which read the whole text so far."""

    def __init__(self, others: Sequence[PreTrainedModel], weights: Sequence[float], mask: Bool[Tensor, "b P"]) -> None:
        self.others, self.weights, self.mask = list(others), list(weights), mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        said = torch.ones_like(input_ids[:, self.mask.shape[1] :], dtype=torch.bool)
        mask = torch.cat([self.mask, said], dim=1).long()
        found = [scores]
        for model in self.others:
            extra = {}
            if "position_ids" in signature(model.forward).parameters:
                extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
            with evaluation_mode(model):
                output = model(input_ids=input_ids, attention_mask=mask, use_cache=False, **extra)
            found.append(output.logits[:, -1].to(scores))
        return _mixed(found, self.weights)


def _mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wᵉ zᵉ in float32."""
    total = weights[0] * logits[0].float()
    for weight, other in zip(weights[1:], logits[1:], strict=True):
        total = total + weight * other.float()
    return total


def _widths(models: Sequence[PreTrainedModel]) -> list[int]:
    return [int(model.get_output_embeddings().weight.shape[1]) for model in models]
