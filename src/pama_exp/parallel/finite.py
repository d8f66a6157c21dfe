"""Checks that numbers are finite: NaN or infinity ends a run before the number is used or written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pama_exp.errors import UserError
from pama_exp.parallel import collectives


def require_finite(quantities: Mapping[str, Tensor], hint: str) -> None:
    """Check that every number is finite, with one synchronisation of the device for all tensors.

    Args:
        quantities: {description such as "The policy's loss": tensor of any shape}.
        hint: the error's second line.

    Raises:
        UserError: for the first tensor that is not finite, with its first value that is not.
    """
    if not quantities:
        return
    device = next(iter(quantities.values())).device
    # Zero times a number is NaN where the number is not finite, and a sum with NaN in it is NaN.
    sums = torch.stack([(values.detach().float() * 0).sum().to(device) for values in quantities.values()])
    for (name, values), is_bad in zip(quantities.items(), sums.isnan().tolist(), strict=True):
        if is_bad:
            numbers = values.detach().float()
            value = numbers[~numbers.isfinite()][0].item()
            raise UserError(f"{name} is {value}.", hint)


def named(what: str, names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
    """{"<what> of '<objective>'": row} for `rows` (N, …); {what: rows} if there is not one row per objective."""
    if len(rows) != len(names):
        return {what: rows}
    return {f"{what} of '{name}'": row for name, row in zip(names, rows, strict=True)}


def norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The Euclidean norm ‖θ‖ of all parameters, with all processes' shards; not finite if any number is not."""
    return collectives.full(nn.utils.get_total_norm([parameter.detach() for parameter in parameters]))


def is_finite(state: Any) -> bool:
    """Whether all floats in nested mappings, lists, tuples and tensors are finite."""
    return all(math.isfinite(number) for number in _numbers(state))


def _numbers(state: Any) -> Iterator[float]:
    if isinstance(state, Tensor):
        yield (state.detach().double() * 0).sum().item()
    elif isinstance(state, float):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _numbers(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _numbers(value)
