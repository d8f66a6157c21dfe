"""The default engine: a decode loop over transformers' models.

Legend: B responses, b responses being decoded, T response tokens, L cache places, H hidden width, E width of the input
embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError
from pama_exp.policy.input_shift import distinct_prompts, row_of_each, shifted
from pama_exp.policy.logits import head_of
from pama_exp.rollout.engine import (
    Sampling,
    ShiftOf,
    check_drawn,
    check_positions,
    draw,
    end_tokens,
    evaluation_mode,
    responses_of,
    to_device,
    uniform_noise,
)
from pama_exp.rollout.graphs import Replayed
from pama_exp.rollout.probe import Reader, why_not_fast
from pama_exp.types import PromptBatch, Rollout

# Finished rows leave the cache when the share of unfinished ones falls to this. Each time, a graph is captured again.
_COMPACT_AT, _COMPACT_GRAPHS_AT = 0.875, 0.5


class CannotDecodeError(UserError):
    """The model cannot be decoded by `FastEngine`; `reason` says why."""

    def __init__(self, model_type: str, reason: str) -> None:
        super().__init__(
            f"rollout=fast does not decode this model of type '{model_type}': {reason}.",
            "Set rollout=hf, or rollout=auto, which chooses.",
        )
        self.reason = f"models of type '{model_type}' are decoded by transformers itself: {reason}"


class FastEngine:
    """Batched sampling with a key-value cache that is allocated once.

    Each distinct prompt is read once, and finished responses leave the computation. In float32 the rollout keeps the
    drawn tokens' log-probabilities and hidden states, since the update's forward pass would compute the same numbers.

    Args:
        model: the policy.
        tokenizer: the policy's.
        rows_at_once: decode at most this many responses at a time, grouped by prompt length, to bound the size of the
            cache; None: all at once.
        graphs: on a GPU, capture the pass over one token as a CUDA graph and replay it. Helps where a small model or
            batch leaves the GPU waiting for Python. All passes then cover the whole cache; without a GPU this only
            costs time.
        shift_of: for a policy conditioned by its embeddings; see `RolloutEngine`.

    Raises:
        UserError: if `rows_at_once` is below 1.
        CannotDecodeError: if the loop would not sample from the model's own distribution (`why_not_fast`).
    """

    @checked("rollout.engine")
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows_at_once: Annotated[int, Range(least=1)] | None = None,
        graphs: bool = False,
        shift_of: ShiftOf | None = None,
    ) -> None:
        self.model, self.tokenizer, self.rows_at_once, self.graphs = model, tokenizer, rows_at_once, graphs
        self.shift_of = shift_of
        reason = why_not_fast(model, graphs)
        if reason is not None:
            raise CannotDecodeError(model.config.model_type, reason)
        self.head, self.ends = head_of(model), end_tokens(model, tokenizer)

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """Sample one response per prompt, in order; see `RolloutEngine.generate`.

        Raises:
            UserError: if prompt and response do not fit the model's positions, its pass cannot be captured, or its
                logits are not finite.
        """
        check_positions(self.model, prompts, sampling)
        prompts = to_device(prompts, self.model.device)
        noise = uniform_noise(seed, len(prompts), sampling.max_new_tokens).to(self.model.device)
        output = _Output(len(prompts), sampling.max_new_tokens, self.model.device)
        shift = None if self.shift_of is None else self.shift_of(prompts.preferences)
        order = prompts.mask.sum(1).argsort(stable=True)
        with evaluation_mode(self.model):
            for rows in torch.split(order, self.rows_at_once or len(order)):
                self._decode(prompts, shift, rows, sampling, noise, output)
        length = int(output.lengths.max())
        is_drawn = torch.arange(length, device=output.ids.device) < output.lengths[:, None]
        check_drawn(torch.where(is_drawn, output.log_probs[:, :length], 0))
        ids, mask, texts = responses_of(self.tokenizer, prompts, output.ids[:, :length], output.lengths, self.ends)
        log_probs, states = None, None
        if output.states is not None:
            log_probs, states = torch.where(mask, output.log_probs[:, :length], 0), output.states[:, :length]
        return Rollout(prompts, ids, mask, output.finished, texts, log_probs, states)

    def reader(self, capacity: int) -> Reader:
        """What reads prompts and tokens, with room for so many of each row."""
        return Reader(self.model, capacity)

    def _decode(
        self,
        prompts: PromptBatch,
        shift: Float[Tensor, "B E"] | None,
        rows: Int[Tensor, " b"],
        sampling: Sampling,
        noise: Float[Tensor, "B T"],
        output: _Output,
    ) -> None:
        """Sample responses to the prompts at `rows` into `output`."""
        limit = sampling.max_new_tokens
        width = int(prompts.mask[rows].sum(1).max())
        mask = prompts.mask[rows, -width:]
        preferences = None if shift is None or prompts.preferences is None else prompts.preferences[rows]
        distinct, prompt_of = distinct_prompts(prompts.input_ids[rows, -width:], mask, preferences)
        is_token = distinct >= 0
        reader = self.reader(width + limit)
        with shifted(self.model, None if shift is None else shift[rows[row_of_each(prompt_of, len(distinct))], None]):
            hidden = reader.prompts(distinct.clamp(min=0), is_token)[prompt_of]
        reader.cache.repeat(prompt_of)
        position = mask.sum(1)
        places = torch.arange(width + limit, device=rows.device)
        # 0 on the places that a new token may attend to.
        bias = hidden.new_full((len(rows), 1, 1, len(places)), -torch.inf)
        bias[..., :width].masked_fill_(mask[:, None, None], 0)
        active = torch.ones_like(rows, dtype=torch.bool)
        row_shift = None if shift is None else shift[rows, None]
        ends = torch.tensor(self.ends, device=rows.device)

        def read(
            tokens: Int[Tensor, " b"],
            position: Int[Tensor, " b"],
            bias: Float[Tensor, "b 1 1 L"],
            place: Int[Tensor, " 1"] | None = None,
        ) -> Float[Tensor, "b H"]:
            with shifted(self.model, row_shift):
                return reader.tokens(tokens, position, bias, place)

        replayed, compact_at = Replayed(read), _COMPACT_GRAPHS_AT if self.graphs else _COMPACT_AT
        for step in range(limit):
            tokens, log_probs = draw(self.head(hidden).float(), sampling, noise[rows, step])
            output.add(rows, active, step, tokens, log_probs, hidden)
            has_ended = torch.isin(tokens, ends)
            output.finished[rows[active & has_ended]] = True
            active = active & ~has_ended
            count = int(active.sum())
            if count == 0 or step + 1 == limit:
                return
            if count <= compact_at * len(rows):
                unfinished = active.nonzero().squeeze(1)
                reader.cache.keep(unfinished)
                rows, tokens, position, bias, active = (x[unfinished] for x in (rows, tokens, position, bias, active))
                row_shift = None if row_shift is None else row_shift[unfinished]
                replayed = Replayed(read)
            place = width + step
            bias[..., place] = 0
            if self.graphs:
                hidden = replayed(tokens, position, bias, places[place : place + 1])
            else:
                hidden = read(tokens, position, bias[..., : place + 1])
            position = position + 1


class _Output:
    """The responses so far, one row each. `states`, and with them `log_probs`, are kept in float32 only."""

    def __init__(self, count: int, limit: int, device: torch.device) -> None:
        self.ids: Int[Tensor, "B T"] = torch.zeros(count, limit, dtype=torch.long, device=device)
        self.log_probs: Float[Tensor, "B T"] = torch.zeros(count, limit, dtype=torch.float32, device=device)
        self.states: Float[Tensor, "B T H"] | None = None
        self.lengths: Int[Tensor, " B"] = torch.zeros(count, dtype=torch.long, device=device)
        self.finished: Bool[Tensor, " B"] = torch.zeros(count, dtype=torch.bool, device=device)

    def add(
        self,
        rows: Int[Tensor, " b"],
        active: Bool[Tensor, " b"],
        step: int,
        tokens: Int[Tensor, " b"],
        log_probs: Float[Tensor, " b"],
        states: Float[Tensor, "b H"],
    ) -> None:
        """Add one token to each row; a finished row's token lies beyond its length and is not read."""
        if self.states is None and states.dtype == torch.float32 and not torch.is_autocast_enabled(states.device.type):
            self.states = states.new_zeros(*self.ids.shape, states.shape[-1])
        self.ids[rows, step], self.log_probs[rows, step] = tokens, log_probs
        self.lengths[rows] += active
        if self.states is not None:
            self.states[rows, step] = states
