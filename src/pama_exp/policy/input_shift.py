"""How a policy is conditioned on a preference (shifts of its input embeddings), and batches of distinct prompts.

Legend: N objectives, B responses, P prompt tokens, D distinct prompts, r rank of one layer of an adapter, E width of
what a preference becomes: the input embeddings', or the ranks of all of an adapter's layers side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_gates: WeakKeyDictionary[Any, list[nn.Module]] = WeakKeyDictionary()


def tell_by_adapter(model: Any, gates: Sequence[nn.Module]) -> None:
    """From now on `shifted` tells this model by its adapter: by what the layers' first matrices give."""
    _gates[model] = list(gates)


@contextmanager
def shifted(model: Any, shift: Float[Tensor, "rows tokens E"] | None) -> Iterator[None]:
    """Within the block, `shift` is added to the input embeddings of every forward pass; None changes nothing.

    Of a model told by its adapter it changes the adapter instead: see `gated`.

    Args:
        model: a transformers model, with or without an adapter.
        shift: for each row of the pass and each token, or with tokens = 1 the same for all tokens of a row.
    """
    if shift is None:
        yield
        return
    if model in _gates:
        with gated(_gates[model], shift):
            yield
        return
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output + shift.to(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def gated(gates: Sequence[nn.Module], shift: Float[Tensor, "rows tokens E"]) -> Iterator[None]:
    """B diag(1 + g) A x in place of B A x in every layer of an adapter, g being the layer's r values of `shift`.

    Args:
        gates: the layers' first matrices A.
        shift: as of `shifted`.
    """
    parts = torch.split(shift, [gate.out_features for gate in gates], dim=-1)  # type: ignore[misc]

    def hook(part: Tensor) -> Any:
        def scaled(gate: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            # Some models make one row of all tokens before a layer, in this order.
            tokens = output.numel() // (part.shape[0] * part.shape[2])
            return output * (1 + part.expand(-1, tokens, -1).reshape(output.shape).to(output))

        return scaled

    handles = [gate.register_forward_hook(hook(part)) for gate, part in zip(gates, parts, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def distinct_prompts(
    ids: Int[Tensor, "B P"], mask: Bool[Tensor, "B P"], preferences: Float[Tensor, "B N"] | None = None
) -> tuple[Int[Tensor, "D P"], Int[Tensor, " B"]]:
    """The distinct prompts, −1 on their padding, and the index of each row's prompt among them.

    With preferences, rows share a prompt only if they also share the preference, since their hidden states differ.
    """
    keys = torch.where(mask, ids, -1)
    if preferences is None:
        distinct, prompt_of = torch.unique(keys, dim=0, return_inverse=True)
        return distinct, prompt_of
    preference_of = torch.unique(preferences, dim=0, return_inverse=True)[1]
    distinct, prompt_of = torch.unique(torch.cat([preference_of[:, None], keys], dim=1), dim=0, return_inverse=True)
    return distinct[:, 1:], prompt_of


def row_of_each(prompt_of: Int[Tensor, " B"], count: int) -> Int[Tensor, " D"]:
    """For each of the `count` distinct prompts, the index of a row that has it."""
    rows = torch.zeros(count, dtype=torch.long, device=prompt_of.device)
    return rows.index_copy_(0, prompt_of, torch.arange(len(prompt_of), device=prompt_of.device))
