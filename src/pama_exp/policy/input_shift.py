"""Shifts of a model's input embeddings, which condition a policy on a preference, and batches of distinct prompts.

Legend: N objectives, B responses, P prompt tokens, D distinct prompts, E width of the input embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@contextmanager
def shifted(model: Any, shift: Float[Tensor, "rows tokens E"] | None) -> Iterator[None]:
    """Within the block, `shift` is added to the input embeddings of every forward pass; None changes nothing.

    Args:
        model: a transformers model, with or without an adapter.
        shift: for each row of the pass and each token, or with tokens = 1 the same for all tokens of a row.
    """
    if shift is None:
        yield
        return
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output + shift.to(output))
    try:
        yield
    finally:
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
