"""A policy that is told which preference to serve: what is added to its input, and which prompts are alike to it.

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
    """Every pass of the model made meanwhile has `shift` added to its input embeddings; None changes nothing.

    Args:
        model: of transformers, with or without an adapter.
        shift: for each row of the pass, and for each of its tokens or (tokens = 1) for all of them alike.
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
    """Every prompt once, −1 on its padding, and which of them each row has.

    With preferences, two rows share a prompt only if they share the preference too: their hidden states differ
    otherwise.
    """
    keys = torch.where(mask, ids, -1)
    if preferences is None:
        found, prompt_of = torch.unique(keys, dim=0, return_inverse=True)
        return found, prompt_of
    told = torch.unique(preferences, dim=0, return_inverse=True)[1]
    found, prompt_of = torch.unique(torch.cat([told[:, None], keys], dim=1), dim=0, return_inverse=True)
    return found[:, 1:], prompt_of


def row_of_each(prompt_of: Int[Tensor, " B"], count: int) -> Int[Tensor, " D"]:
    """For each of `count` distinct prompts, a row that has it."""
    rows = torch.zeros(count, dtype=torch.long, device=prompt_of.device)
    return rows.index_copy_(0, prompt_of, torch.arange(len(prompt_of), device=prompt_of.device))
