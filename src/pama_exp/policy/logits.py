"""From last hidden states to logits as the model itself does it: capped, scaled, or its output layer alone.

Legend: n tokens, V words of the vocabulary, H hidden width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from pama_exp.errors import UserError

Head = Callable[[Tensor], Tensor]
_found: WeakKeyDictionary[PreTrainedModel, Head] = WeakKeyDictionary()
_SCALES = (1.0, 100.0, 1e4)  # of the largest logit: a cap shows only where logits come near it
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}  # of the largest logit; other precisions: one in fifty


def head_of(model: PreTrainedModel) -> Head:
    """The model's function from states (…, H) to logits (…, V); found once for each model.

    The output layer where the model's logits are its output alone, else the model's own forward pass with a trunk that
    hands on the states it is given. Either is held to the model's own logits, for states of its own and for states that
    make logits large, which a cap changes.

    Raises:
        UserError: if the model's logits depend on more than its last hidden states.
    """
    if model not in _found:
        _found[model] = _find(model)
    return _found[model]


@dataclass
class _Output(MoeModelOutputWithPast):  # type: ignore[misc]
    """Of any trunk: what it has not is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _GivenStates(nn.Module):
    """In place of a trunk: the states are what it was given as embeddings."""

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any) -> Any:
        """As a trunk is called."""
        return _Output(last_hidden_state=inputs_embeds)


def _own_head(model: PreTrainedModel) -> Head:
    """The model's forward pass without its trunk; modules and parameters are the model's."""
    shell = copy.copy(model)
    shell._modules = {**model._modules, model.base_model_prefix: _GivenStates()}

    def logits(states: Tensor) -> Tensor:
        rows = states.reshape(1, -1, states.shape[-1])
        found: Tensor = shell(inputs_embeds=rows, use_cache=False).logits
        return found.view(*states.shape[:-1], found.shape[-1])

    return logits


@torch.no_grad()
def _find(model: PreTrainedModel) -> Head:
    was_training, layer = model.training, model.get_output_embeddings()
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled blocks would be compiled once more, for these passes
            if _agrees(layer, model, partial(_reading, layer)):
                return cast(Head, layer)
            own = _own_head(model)
            if _hears(model) and _agrees(own, model, partial(_saying, model.base_model)):
                return own
    finally:
        model.train(was_training)
    raise UserError(
        f"Logits of models of type '{model.config.model_type}' depend on more than their last hidden states.",
        "Use one whose output layer reads the trunk's states, such as llama, gemma or qwen.",
    )


def _agrees(head: Head, model: PreTrainedModel, replacing: Callable[[Tensor], Any]) -> bool:
    """Whether the model's own logits are `head`'s: of its own states, and of states of several sizes in their place."""
    tokens = _tokens(model)
    states = model.base_model(**tokens).last_hidden_state
    layer = model.get_output_embeddings()
    if states.shape[-1] != layer.weight.shape[1] or not _close(head(states), model(**tokens).logits):
        return False
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states)
    for scale in _SCALES:
        given = noise / layer(noise).nan_to_num(posinf=0, neginf=0).abs().amax().clamp(min=1e-6) * scale
        if not bool(given.isfinite().all()):  # beyond what 16 bits hold
            continue
        with replacing(given):
            wanted = model(**tokens).logits
        if not _close(head(given), wanted):
            return False
    return True


def _hears(model: PreTrainedModel) -> bool:
    """Whether the model's forward pass calls its trunk as a whole, so that another could stand in its place."""
    tokens = _tokens(model)
    with _saying(model.base_model, torch.zeros_like(model.base_model(**tokens).last_hidden_state)):
        silent = model(**tokens).logits
    return not torch.equal(silent, model(**tokens).logits)


@contextmanager
def _reading(layer: nn.Module, states: Tensor) -> Iterator[None]:
    """The output layer reads these states, whatever it is given."""
    handle = layer.register_forward_pre_hook(lambda module, inputs: (states,))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _saying(trunk: nn.Module, states: Tensor) -> Iterator[None]:
    """The trunk's last hidden states are these, whatever it has read."""

    def say(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = states
        return output

    handle = trunk.register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()


def _tokens(model: PreTrainedModel) -> dict[str, Any]:
    ids = torch.arange(3, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def _close(found: Float[Tensor, "b n V"], wanted: Float[Tensor, "b n V"]) -> bool:
    difference = torch.where(found == wanted, 0, found - wanted).abs().amax().item()  # of two infinities: none
    most = torch.where(wanted.isfinite(), wanted, 0).abs().amax().item()
    return difference <= _TOLERANCE.get(wanted.dtype, 0.02) * max(most, 1e-6)
