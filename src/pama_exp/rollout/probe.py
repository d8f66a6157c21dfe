"""Decoding passes over transformers' trunks, prompts once, then one token at a time, and a check of their results.

Legend: b rows, P prompt tokens, L places of the cache, H hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pama_exp.policy.attention import Attention, arrange, is_arranged, why_not, windows_of
from pama_exp.rollout.engine import evaluation_mode
from pama_exp.rollout.kv_cache import DecodeCache

_DIFFERENCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative to the states' norm; other precisions: 0.1
# Errors of architectures whose caches hold something else than keys and values.
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class _OneToken:
    """Attention of a new token in layers with a window: only the places just before its own."""

    place: Int[Tensor, " 1"] | None  # where the token stands; None: at the last of the places

    def attend(
        self, attention: Attention, states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, window: int | None
    ) -> Float[Tensor, "b 1 heads d"]:
        """The layer's attention restricted to its window; see `pama_exp.policy.attention.Layout.attend`."""
        query, key, value = states
        if window is None or mask is None or window >= key.shape[2]:
            return attention(query, key, value, mask)
        if self.place is None:
            return attention(query, key[:, :, -window:], value[:, :, -window:], mask[..., -window:])
        places = torch.arange(key.shape[2], device=key.device)
        return attention(query, key, value, mask.masked_fill(places <= self.place - window, -torch.inf))


class Reader:
    """A model's trunk with a cache for `capacity` tokens per row.

    A model without an attention backend builds its attention masks itself, from a mask of the places that hold tokens.
    """

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        self.trunk, self.cache = model.base_model, DecodeCache(capacity)
        self.makes_masks = not model._supports_attention_backend
        self.has_windows = bool(windows_of(model)) and is_arranged(model)
        self.takes_positions = "position_ids" in signature(self.trunk.forward).parameters

    def prompts(self, ids: Int[Tensor, "b P"], mask: Bool[Tensor, "b P"]) -> Float[Tensor, "b H"]:
        """Read left-padded prompts; returns the hidden state of each one's last token."""
        return self._read(ids, mask.long(), (mask.cumsum(1) - 1).clamp(min=0))

    def tokens(
        self,
        tokens: Int[Tensor, " b"],
        position: Int[Tensor, " b"],
        bias: Float[Tensor, "b 1 1 L"],
        place: Int[Tensor, " 1"] | None = None,
    ) -> Float[Tensor, "b H"]:
        """Read one more token per row; returns its hidden state.

        Args:
            tokens: the tokens' ids.
            position: each token's position in its row.
            bias: added to the attention scores of all places up to the new one: 0 where it may attend, else −inf.
            place: where the token is written; L is then the whole cache. None: after the places in use.
        """
        if place is not None:
            self.cache.write_at(place)
        extra = {"layout": _OneToken(place)} if self.has_windows else {}
        mask = (bias[:, 0, 0] == 0).long() if self.makes_masks else bias
        return self._read(tokens[:, None], mask, position[:, None], **extra)

    def _read(
        self, ids: Int[Tensor, "b P"], mask: Tensor, positions: Int[Tensor, "b P"], **extra: Any
    ) -> Float[Tensor, "b H"]:
        if self.takes_positions:
            extra["position_ids"] = positions
        states: Float[Tensor, "b P H"] = self.trunk(
            input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **extra
        ).last_hidden_state
        return states[:, -1]


def why_not_fast(model: PreTrainedModel, graphs: bool = False) -> str | None:
    """Why a `Reader` does not compute what the model itself computes; None where it does.

    The architecture's properties are checked first, then its results on a few tokens. Side effect: the attention of a
    model with windows is arranged (`arrange`).
    """
    has_backend = model._supports_attention_backend
    reason = why_not(model)
    if reason is not None and (has_backend or graphs):
        return reason
    if windows_of(model) and not is_arranged(arrange(model)):
        return f"its windows need another attention than {model.config._attn_implementation}"
    return _differs(model)


@torch.no_grad()
def _differs(model: PreTrainedModel) -> str | None:
    """Why two rows, one of them padded, get other states read token by token than each read alone; None if equal."""
    words = (torch.arange(12, device=model.device) * 7 + 3) % model.get_input_embeddings().num_embeddings
    rows, lengths = words.view(2, 6), torch.tensor([4, 2], device=model.device)
    mask = torch.arange(4, device=model.device) >= 4 - lengths[:, None]
    bias = torch.zeros(2, 1, 1, 6, device=model.device, dtype=model.dtype).masked_fill_(
        ~torch.nn.functional.pad(mask, (0, 2), value=True)[:, None, None], -torch.inf
    )
    with evaluation_mode(model):
        try:
            reader = Reader(model, 6)
            reader.prompts(rows[:, :4], mask)
            for step in (0, 1):
                states = reader.tokens(rows[:, 4 + step], lengths + step, bias[..., : 5 + step])
        except _REFUSALS as error:
            return f"its cache is of another kind ({str(error).splitlines()[0][:80]})"
        for row, length in enumerate(lengths.tolist()):
            alone = rows[row, 4 - length :][None]
            expected = model.base_model(
                input_ids=alone, attention_mask=torch.ones_like(alone), use_cache=False
            ).last_hidden_state[0, -1]
            if not (states[row] - expected).norm() <= _DIFFERENCE.get(expected.dtype, 0.1) * expected.norm():
                return "read token by token it computes something else"
    return None
