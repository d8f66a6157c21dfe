"""One forward pass through the trunk for a rollout without padding: each distinct prompt once, then all responses.

Layers that act on single tokens get one packed row of valid tokens. Only attention needs to know which tokens belong
together: it unpacks queries, keys and values, lets responses attend to their prompt, and packs the result again.

Legend: B responses, P prompt tokens and R response tokens fed at most, N packed tokens, T response tokens, H hidden
width, E width of the input embeddings, d width of a head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from pama_exp.policy.attention import ARRANGED, Attention, windows_of
from pama_exp.policy.input_shift import distinct_prompts, row_of_each, shifted
from pama_exp.types import Rollout


@dataclass(frozen=True)
class Slots:
    """A right-padded rectangle of packed tokens: the token of each place, and the place of each token."""

    shape: tuple[int, int]
    token_of_place: Int[Tensor, " places"]  # any token on padding
    place_of_token: Int[Tensor, " tokens"]
    first: int  # index of the first token among all N

    @property
    def is_full(self) -> bool:
        """Whether there is no padding; the rectangle is then a view of the tokens."""
        return len(self.token_of_place) == len(self.place_of_token)


@dataclass(frozen=True)
class PackedLayout:
    """The attention layout of a packed rollout: the prompt or response, and the position, of each token."""

    ids: Int[Tensor, "1 N"]
    positions: Int[Tensor, "1 N"]
    prompts: Slots
    responses: Slots | None  # None if no response feeds a token: all have one token
    prompt_of: Int[Tensor, " B"]
    # By window: masks added to the scores of prompt and response tokens; None: causal.
    prompt_masks: Mapping[int | None, Float[Tensor, "1 1 P P"] | None]
    masks: Mapping[int | None, Float[Tensor, "_ 1 R PR"] | None]
    predictor: Int[Tensor, "B T"]  # the token whose state predicts each response token; any on padding

    def attend(
        self, attention: Attention, states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, window: int | None
    ) -> Float[Tensor, "1 N heads d"]:
        """Attention within prompts and from responses to their prompts; `mask` is not used.

        See `pama_exp.policy.attention.Layout.attend`.
        """
        kind = window if window in self.masks else None  # a window that covers every row is none
        tokens = [state.transpose(1, 2)[0] for state in states]
        prompts = [_unpack(state, self.prompts) for state in tokens]
        out = [_pack(attention(*prompts, _like(self.prompt_masks[kind], prompts[0])), self.prompts)]
        if self.responses is not None:
            query, *rest = (_unpack(state, self.responses) for state in tokens)
            joined = [torch.cat([p[self.prompt_of], r], dim=2) for p, r in zip(prompts[1:], rest, strict=True)]
            out.append(_pack(attention(query, *joined, _like(self.masks[kind], query)), self.responses))
        return torch.cat(out)[None]


def pack(
    rollout: Rollout, by_preference: bool = False, windows: Collection[int] = (), explicit: bool = False
) -> PackedLayout:
    """The layout of a rollout with equal prompts packed once.

    Args:
        rollout: of B responses.
        by_preference: whether equal prompts with different preferences are packed separately.
        windows: sizes of the model's attention windows, in tokens.
        explicit: whether attention needs an explicit causal mask.
    """
    prompts, device = rollout.prompts, rollout.response_ids.device
    preferences = prompts.preferences if by_preference else None
    distinct, prompt_of = distinct_prompts(prompts.input_ids, prompts.mask, preferences)
    is_token = distinct >= 0
    prompt_lengths = is_token.sum(1)
    fed = rollout.response_mask[:, 1:]  # nothing follows the last token, so it is not fed
    fed_ids, feeds = rollout.response_ids[:, :-1], bool(fed.any())
    prompt_slots = _slots(prompt_lengths, 0)
    total = int(prompt_lengths.sum())
    response_slots = _slots(fed.sum(1), total) if feeds else None

    steps = torch.arange(fed.shape[1], device=device)
    starts = prompt_lengths[prompt_of, None]
    ids = torch.cat([distinct[is_token], fed_ids[fed]])
    positions = torch.cat([(is_token.cumsum(1) - 1)[is_token], (starts + steps)[fed]])
    last_of_prompt = prompt_lengths.cumsum(0)[prompt_of] - 1
    offsets = total + fed.flatten().cumsum(0).view_as(fed) - 1  # of the fed tokens; others are masked
    predictor = torch.cat([last_of_prompt[:, None], torch.where(fed, offsets, 0)], dim=1)

    longest = int((prompt_lengths[prompt_of] + fed.sum(1)).max())
    kinds: list[int | None] = [None, *(window for window in windows if window < longest)]
    prompt_masks = {k: _causal(prompt_slots.shape[1], k, device) if explicit or k else None for k in kinds}
    masks = {k: None if response_slots is None else _visible(prompt_slots, response_slots, starts, k) for k in kinds}
    return PackedLayout(
        ids[None], positions[None], prompt_slots, response_slots, prompt_of, prompt_masks, masks, predictor
    )


def packed_states(
    model: PreTrainedModel, rollout: Rollout, shift: Float[Tensor, "B E"] | None = None
) -> Float[Tensor, "B T H"]:
    """Last hidden states that predict the response tokens; arbitrary on padding.

    `shift` is added to the input embeddings of each row's tokens; it must depend only on the rollout's preferences.
    """
    is_eager = model.config._attn_implementation != ARRANGED
    layout = pack(rollout, shift is not None, windows_of(model), is_eager)
    # A mask of four dimensions keeps the model from making one.
    unused = layout.ids.new_zeros(1, 1, 1, 1, dtype=torch.bool)
    with shifted(model, None if shift is None else functional.embedding(rows_of_tokens(rollout, layout), shift)[None]):
        output = model.base_model(
            input_ids=layout.ids, position_ids=layout.positions, attention_mask=unused, use_cache=False, layout=layout
        )
    return functional.embedding(layout.predictor, output.last_hidden_state[0])


def rows_of_tokens(rollout: Rollout, layout: PackedLayout) -> Int[Tensor, " N"]:
    """The row that each packed token belongs to; for a prompt that several rows share, any of them."""
    rows = row_of_each(layout.prompt_of, layout.prompts.shape[0])
    lengths = rollout.prompts.mask[rows].sum(1)
    return torch.cat([rows.repeat_interleave(lengths), rollout.response_mask[:, 1:].nonzero()[:, 0]])


def _causal(length: int, window: int | None, device: torch.device) -> Float[Tensor, "1 1 P P"]:
    """The mask by which each token attends to itself and those before it, within the window."""
    places = torch.arange(length, device=device)
    return _bias(_within(places[:, None] - places, window))[None, None]


def _visible(
    prompts: Slots, responses: Slots, starts: Int[Tensor, "B 1"], window: int | None
) -> Float[Tensor, "_ 1 R PR"]:
    """The mask by which each response token attends to its prompt, itself and those before it, within the window.

    It has one row if all prompts have the same length.
    """
    starts = starts[:1] if bool((starts == starts[0]).all()) else starts
    steps = torch.arange(responses.shape[1], device=starts.device)
    places = torch.arange(prompts.shape[1], device=starts.device)
    of_prompt = _within((starts + steps)[:, :, None] - places, window) & (places < starts)[:, None]
    of_response = _within(steps[:, None] - steps, window).expand(len(starts), -1, -1)
    return _bias(torch.cat([of_prompt, of_response], dim=-1))[:, None]


def _within(distance: Int[Tensor, ...], window: int | None) -> Bool[Tensor, ...]:
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _bias(allowed: Bool[Tensor, ...]) -> Float[Tensor, ...]:
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def _like(mask: Tensor | None, states: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(states.dtype)


def _slots(lengths: Int[Tensor, " rows"], first: int) -> Slots:
    longest = int(lengths.max())
    valid = torch.arange(longest, device=lengths.device) < lengths[:, None]
    place_of_token = valid.flatten().nonzero().squeeze(1)
    token_of_place = torch.where(valid, valid.flatten().cumsum(0).view_as(valid) - 1, 0).flatten()
    return Slots((len(lengths), longest), token_of_place, place_of_token, first)


def _unpack(states: Float[Tensor, "N heads d"], slots: Slots) -> Float[Tensor, "rows heads longest d"]:
    tokens = states[slots.first : slots.first + len(slots.place_of_token)]
    places: Tensor = tokens
    if not slots.is_full:
        places = _ToPlaces.apply(tokens, slots.token_of_place, slots.place_of_token)  # type: ignore[no-untyped-call]
    return places.view(*slots.shape, *places.shape[1:]).transpose(1, 2)


def _pack(states: Float[Tensor, "rows longest heads d"], slots: Slots) -> Float[Tensor, "tokens heads d"]:
    tokens: Tensor = states.flatten(0, 1)
    if not slots.is_full:
        tokens = _ToTokens.apply(tokens, slots.place_of_token)  # type: ignore[no-untyped-call]
    return tokens


class _ToPlaces(torch.autograd.Function):
    """Tokens to places. Backward is a selection too, since padding, masked or dropped, has no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, token_of_place: Tensor, place_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(place_of_token)
        return tokens.index_select(0, token_of_place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _ToTokens(torch.autograd.Function):
    """Places to tokens. Every token has one place: backward is a copy, without scattered addition."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, place_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(place_of_token)
        ctx.places = len(places)
        return places.index_select(0, place_of_token)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        places = gradient.new_zeros(ctx.places, *gradient.shape[1:])
        return places.index_copy_(0, ctx.saved_tensors[0], gradient), None
