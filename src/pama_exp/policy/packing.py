"""One pass through the trunk for a whole rollout without padding: every distinct prompt once, then every response.

Layers that act on each token alone see one packed row of valid tokens. Only attention needs to know which tokens
belong together: it unpacks queries, keys and values, lets responses look at their prompt's keys, and packs again.

Legend: B responses, P and R the most tokens of a prompt and of a response fed, N packed tokens, T response tokens,
H hidden width, E width of the input embeddings, d width of a head.
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
    """A right-padded rectangle over packed tokens: which token each place shows, and where each token stands."""

    shape: tuple[int, int]
    token_of_place: Int[Tensor, " places"]  # an arbitrary token on padding
    place_of_token: Int[Tensor, " tokens"]
    first: int  # where the tokens start among all N

    @property
    def is_full(self) -> bool:
        """Whether there is no padding: the rectangle is then a view."""
        return len(self.token_of_place) == len(self.place_of_token)


@dataclass(frozen=True)
class Layout:
    """Where each token of a packed rollout belongs."""

    ids: Int[Tensor, "1 N"]
    positions: Int[Tensor, "1 N"]
    prompts: Slots
    responses: Slots | None  # None where no response feeds a token: all are of one token
    prompt_of: Int[Tensor, " B"]
    # By window: what a prompt's and a response's tokens may look at; added to the scores. None: all before them.
    prompt_masks: Mapping[int | None, Float[Tensor, "1 1 P P"] | None]
    masks: Mapping[int | None, Float[Tensor, "_ 1 R PR"] | None]
    predictor: Int[Tensor, "B T"]  # the token from whose state each response token is predicted; any on padding

    def attend(
        self, attention: Attention, states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, window: int | None
    ) -> Float[Tensor, "1 N heads d"]:
        """See `pama_exp.policy.attention.Layout`; `mask` is not looked at."""
        kind = window if window in self.masks else None  # a window that holds every row is none
        tokens = [state.transpose(1, 2)[0] for state in states]
        whole = [_unpack(state, self.prompts) for state in tokens]
        out = [_pack(attention(*whole, _like(self.prompt_masks[kind], whole[0])), self.prompts)]
        if self.responses is not None:
            own = [_unpack(state, self.responses) for state in tokens]
            joined = [torch.cat([p[self.prompt_of], r], dim=2) for p, r in zip(whole[1:], own[1:], strict=True)]
            out.append(_pack(attention(own[0], *joined, _like(self.masks[kind], own[0])), self.responses))
        return torch.cat(out)[None]


def pack(
    rollout: Rollout, by_preference: bool = False, windows: Collection[int] = (), explicit: bool = False
) -> Layout:
    """The layout of a rollout; prompts that are alike (and, where it counts, asked to serve alike) are one.

    Args:
        rollout: of B responses.
        by_preference: whether preferences count.
        windows: how far the model's layers look that do not look at everything.
        explicit: whether the attention has to be told that it is causal.
    """
    prompts, device = rollout.prompts, rollout.response_ids.device
    preferences = prompts.preferences if by_preference else None
    distinct, prompt_of = distinct_prompts(prompts.input_ids, prompts.mask, preferences)
    given = distinct >= 0
    prompt_lengths = given.sum(1)
    fed = rollout.response_mask[:, 1:]  # nothing follows the last token, so it is not fed
    fed_ids, feeds = rollout.response_ids[:, :-1], bool(fed.any())
    prompt_slots = _slots(prompt_lengths, 0)
    total = int(prompt_lengths.sum())
    response_slots = _slots(fed.sum(1), total) if feeds else None

    steps = torch.arange(fed.shape[1], device=device)
    starts = prompt_lengths[prompt_of, None]
    ids = torch.cat([distinct[given], fed_ids[fed]])
    positions = torch.cat([(given.cumsum(1) - 1)[given], (starts + steps)[fed]])
    last_of_prompt = prompt_lengths.cumsum(0)[prompt_of] - 1
    offsets = total + fed.flatten().cumsum(0).view_as(fed) - 1  # of the fed tokens; others are masked
    predictor = torch.cat([last_of_prompt[:, None], torch.where(fed, offsets, 0)], dim=1)

    longest = int((prompt_lengths[prompt_of] + fed.sum(1)).max())
    kinds: list[int | None] = [None, *(window for window in windows if window < longest)]
    prompt_masks = {k: _causal(prompt_slots.shape[1], k, device) if explicit or k else None for k in kinds}
    masks = {k: None if response_slots is None else _visible(prompt_slots, response_slots, starts, k) for k in kinds}
    return Layout(ids[None], positions[None], prompt_slots, response_slots, prompt_of, prompt_masks, masks, predictor)


def packed_states(
    model: PreTrainedModel, rollout: Rollout, shift: Float[Tensor, "B E"] | None = None
) -> Float[Tensor, "B T H"]:
    """Last hidden states from which the response's tokens are predicted; arbitrary on padding.

    `shift` is added to the embedding of each row's tokens; it is a function of the rollout's preferences.
    """
    is_eager = model.config._attn_implementation != ARRANGED
    layout = pack(rollout, shift is not None, windows_of(model), is_eager)
    unused = layout.ids.new_zeros(
        1, 1, 1, 1, dtype=torch.bool
    )  # a mask of four dimensions keeps the model from making one
    with shifted(model, None if shift is None else functional.embedding(rows_of_tokens(rollout, layout), shift)[None]):
        output = model.base_model(
            input_ids=layout.ids, position_ids=layout.positions, attention_mask=unused, use_cache=False, layout=layout
        )
    return functional.embedding(layout.predictor, output.last_hidden_state[0])


def rows_of_tokens(rollout: Rollout, layout: Layout) -> Int[Tensor, " N"]:
    """The row that each packed token belongs to; of a prompt that several rows share, any of them."""
    rows = row_of_each(layout.prompt_of, layout.prompts.shape[0])
    lengths = rollout.prompts.mask[rows].sum(1)
    return torch.cat([rows.repeat_interleave(lengths), rollout.response_mask[:, 1:].nonzero()[:, 0]])


def _causal(length: int, window: int | None, device: torch.device) -> Float[Tensor, "1 1 P P"]:
    """Each token looks at itself and those before it, within the window."""
    places = torch.arange(length, device=device)
    return _bias(_within(places[:, None] - places, window))[None, None]


def _visible(
    prompts: Slots, responses: Slots, starts: Int[Tensor, "B 1"], window: int | None
) -> Float[Tensor, "_ 1 R PR"]:
    """Each token of a response looks at its prompt, at itself and at those before it, within the window.

    One row serves all where the prompts are of one length.
    """
    starts = starts[:1] if bool((starts == starts[0]).all()) else starts
    steps = torch.arange(responses.shape[1], device=starts.device)
    places = torch.arange(prompts.shape[1], device=starts.device)
    of_prompt = _within((starts + steps)[:, :, None] - places, window) & (places < starts)[:, None]
    own = _within(steps[:, None] - steps, window).expand(len(starts), -1, -1)
    return _bias(torch.cat([of_prompt, own], dim=-1))[:, None]


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
    mine = states[slots.first : slots.first + len(slots.place_of_token)]
    places: Tensor = mine
    if not slots.is_full:
        places = _ToPlaces.apply(mine, slots.token_of_place, slots.place_of_token)  # type: ignore[no-untyped-call]
    return places.view(*slots.shape, *places.shape[1:]).transpose(1, 2)


def _pack(states: Float[Tensor, "rows longest heads d"], slots: Slots) -> Float[Tensor, "tokens heads d"]:
    tokens: Tensor = states.flatten(0, 1)
    if not slots.is_full:
        tokens = _ToTokens.apply(tokens, slots.place_of_token)  # type: ignore[no-untyped-call]
    return tokens


class _ToPlaces(torch.autograd.Function):
    """Tokens to places. Backward, too, is a selection: padding is masked or dropped, so that it has no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, token_of_place: Tensor, place_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(place_of_token)
        return tokens.index_select(0, token_of_place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _ToTokens(torch.autograd.Function):
    """Places to tokens; every token has one place, so that backward is a copy and no scattered addition."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, place_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(place_of_token)
        ctx.places = len(places)
        return places.index_select(0, place_of_token)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.new_zeros(ctx.places, *gradient.shape[1:])
        return whole.index_copy_(0, ctx.saved_tensors[0], gradient), None
