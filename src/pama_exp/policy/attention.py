"""Attention of transformers' models with a layout that the caller of a forward pass chooses.

The pass takes `layout=`, which transformers hands on to every layer's attention. The layers then compute the model's
own attention: fused, or the architecture's own function where it has no fused one (capped scores, attention sinks).

Legend: b rows, n queries, d width of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

ARRANGED, ARRANGED_EAGER = "pama_exp_arranged", "pama_exp_arranged_eager"
_KINDS = {"full_attention", "sliding_attention"}  # supported layers; others keep a state or attend to chunks

Attention = Callable[..., Tensor]  # of queries, keys, values, and a mask that is added to the scores


@runtime_checkable
class Layout(Protocol):
    """How a forward pass arranges its tokens for attention."""

    def attend(
        self,
        attention: Attention,
        states: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        window: int | None,
    ) -> Float[Tensor, "b n heads d"]:
        """One layer's attention output for queries, keys and values of shape (b, heads, n, d).

        Args:
            attention: the layer's own attention; causal if called without a mask.
            states: queries, keys, values.
            mask: the attention mask that the model got.
            window: number of tokens, itself included, that a token of this layer attends to; None: all before it.
        """
        ...


def why_not(model: PreTrainedModel) -> str | None:
    """Why the model's attention cannot take a layout, as a phrase; None if it can."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _KINDS
    if not model._supports_attention_backend:
        return "transformers gives it no attention backend"
    if model.config.is_encoder_decoder or not getattr(model.config, "is_causal", True):
        return "its attention is not causal"
    if kinds:
        return f"it has layers of the kind {min(kinds)}"
    if not model._supports_sdpa and not hasattr(sys.modules[type(model).__module__], "eager_attention_forward"):
        return "its attention is no function that can be replaced"
    return None


def arrange(model: PreTrainedModel) -> PreTrainedModel:
    """Let forward passes of this model take a `layout`, if possible; returns the model, changed in place.

    Passes without a layout stay transformers' own.
    """
    fused, eager = ("sdpa", ARRANGED), ("eager", ARRANGED_EAGER)
    original, arranged = fused if model._supports_sdpa else eager
    if model.config._attn_implementation == original and why_not(model) is None:
        model.set_attn_implementation(arranged)
        if not _reaches_every_layer(model):
            model.set_attn_implementation(original)
    return model


class _Counting:
    """A layout that changes nothing and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def attend(
        self, attention: Attention, states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, window: int | None
    ) -> Tensor:
        """Plain attention, counted."""
        self.calls += 1
        return attention(*states, mask)


@torch.no_grad()
def _reaches_every_layer(model: PreTrainedModel) -> bool:
    """Whether the architecture hands the layout on to all its layers; a few do not."""
    layout, token = _Counting(), torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        model.base_model(input_ids=token, use_cache=False, layout=layout)
    except TypeError:  # it takes no such argument
        return False
    return bool(layout.calls == model.config.get_text_config().num_hidden_layers)


def is_arranged(model: PreTrainedModel) -> bool:
    """Whether forward passes of the model can take a `layout` (`arrange` succeeded)."""
    return bool(model.config._attn_implementation in (ARRANGED, ARRANGED_EAGER))


def windows_of(model: PreTrainedModel) -> set[int]:
    """Sizes, in tokens, of the attention windows of the model's layers; empty if all layers attend to everything."""
    sizes = [getattr(module, "sliding_window", None) for module in model.modules()]
    sizes.append(getattr(model.config.get_text_config(), "sliding_window", None))
    return {size for size in sizes if isinstance(size, int) and size > 0}


def _eager_function(module: nn.Module) -> Callable[..., Any]:
    function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    return function


def _fused(
    module: nn.Module,
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b kv_heads keys d"],
    value: Float[Tensor, "b kv_heads keys e"],
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (b, heads, n, d) in, (b, n, heads, d) out."""
    return _attend(partial(sdpa_attention_forward, module, **rest), (query, key, value), attention_mask, layout, rest)


def _eager(
    module: nn.Module,
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b kv_heads keys d"],
    value: Float[Tensor, "b kv_heads keys e"],
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention by the architecture's own function, which needs an explicit causal mask; shapes as in `_fused`."""
    return _attend(partial(_eager_function(module), module, **rest), (query, key, value), attention_mask, layout, rest)


def _attend(
    function: Callable[..., Any],
    states: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    layout: Layout | None,
    rest: dict[str, Any],
) -> tuple[Tensor, None]:
    if layout is None:
        return function(*states, mask)[0], None
    return layout.attend(lambda *arguments: function(*arguments)[0], states, mask, rest.get("sliding_window")), None


AttentionInterface.register(ARRANGED, _fused)
AttentionMaskInterface.register(ARRANGED, sdpa_mask)
AttentionInterface.register(ARRANGED_EAGER, _eager)
AttentionMaskInterface.register(ARRANGED_EAGER, eager_mask)
