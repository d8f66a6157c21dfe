"""Attention of a model of transformers that its callers arrange: who may look at whom, window by window.

A pass is given `layout=`, which transformers hands on to every layer's attention. What the layer then computes is the
model's own: fused attention, or where the architecture has none (capped scores, attention sinks) its own function.

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
_KINDS = {"full_attention", "sliding_attention"}  # of layers; others keep a state or look at chunks

Attention = Callable[..., Tensor]  # of queries, keys, values, and a mask that is added to the scores


@runtime_checkable
class Layout(Protocol):
    """How a pass arranges its tokens."""

    def attend(
        self,
        attention: Attention,
        states: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        window: int | None,
    ) -> Float[Tensor, "b n heads d"]:
        """The layer's result for queries, keys and values of (b, heads, n, d).

        Args:
            attention: the layer's own; without a mask it is causal.
            states: queries, keys, values.
            mask: what the model was given as its mask.
            window: how many tokens, itself included, a token of this layer looks at; None: all before it.
        """
        ...


def why_not(model: PreTrainedModel) -> str | None:
    """Why the model's attention cannot be arranged; None where it can."""
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
    """Let passes of this model take a `layout`, where it can; passes without one are transformers' own."""
    fused, own = ("sdpa", ARRANGED), ("eager", ARRANGED_EAGER)
    now, then = fused if model._supports_sdpa else own
    if model.config._attn_implementation == now and why_not(model) is None:
        model.set_attn_implementation(then)
        if not _reaches_every_layer(model):
            model.set_attn_implementation(now)
    return model


class _Counting:
    """Attention as it is, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def attend(
        self, attention: Attention, states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, window: int | None
    ) -> Tensor:
        """See `Layout`."""
        self.calls += 1
        return attention(*states, mask)


@torch.no_grad()
def _reaches_every_layer(model: PreTrainedModel) -> bool:
    """Whether the architecture hands on to all its layers what a pass is given: a few do not."""
    layout, token = _Counting(), torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        model.base_model(input_ids=token, use_cache=False, layout=layout)
    except TypeError:  # it takes no such argument
        return False
    return bool(layout.calls == model.config.get_text_config().num_hidden_layers)


def is_arranged(model: PreTrainedModel) -> bool:
    """Whether `arrange` took effect."""
    return bool(model.config._attn_implementation in (ARRANGED, ARRANGED_EAGER))


def windows_of(model: PreTrainedModel) -> set[int]:
    """How far layers of the model look that do not look at everything, in tokens."""
    found = [getattr(module, "sliding_window", None) for module in model.modules()]
    found.append(getattr(model.config.get_text_config(), "sliding_window", None))
    return {window for window in found if isinstance(window, int) and window > 0}


def _own_eager(module: nn.Module) -> Callable[..., Any]:
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
    """The same by the architecture's own function, which has to be told what is causal."""
    return _attend(partial(_own_eager(module), module, **rest), (query, key, value), attention_mask, layout, rest)


def _attend(
    function: Callable[..., Any],
    states: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    layout: Layout | None,
    rest: dict[str, Any],
) -> tuple[Tensor, None]:
    if layout is None:
        return function(*states, mask)[0], None
    return layout.attend(lambda *given: function(*given)[0], states, mask, rest.get("sliding_window")), None


AttentionInterface.register(ARRANGED, _fused)
AttentionMaskInterface.register(ARRANGED, sdpa_mask)
AttentionInterface.register(ARRANGED_EAGER, _eager)
AttentionMaskInterface.register(ARRANGED_EAGER, eager_mask)
