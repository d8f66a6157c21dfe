"""Numbers that have become NaN or infinite end a run, before anything is made of them or written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pama_exp.errors import UserError
from pama_exp.parallel import collectives


def require_finite(quantities: Mapping[str, Tensor], hint: str) -> None:
    """Every number is finite. The device is waited for once, however many tensors there are.

    Args:
        quantities: tensors of any shape by what they are, such as "The policy's loss"; the first that is not finite is
            named.
        hint: what would help.

    Raises:
        UserError: if one is not, with the value.
    """
    if not quantities:
        return
    device = next(iter(quantities.values())).device
    # Zero times a number is NaN where the number is not finite, and a sum with NaN in it is NaN.
    sums = torch.stack([(values.detach().float() * 0).sum().to(device) for values in quantities.values()])
    for (name, values), is_bad in zip(quantities.items(), sums.isnan().tolist(), strict=True):
        if is_bad:
            found = values.detach().float()
            value = found[~found.isfinite()][0].item()
            raise UserError(f"{name} is {value}.", hint)


def named(what: str, names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
    """`rows` (N, …) by objective; under `what` alone where they are not one for each."""
    if len(rows) != len(names):
        return {what: rows}
    return {f"{what} of '{name}'": row for name, row in zip(names, rows, strict=True)}


def norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """‖θ‖ over all of them, other processes' shards included; not finite where one of their numbers is not."""
    return collectives.full(nn.utils.get_total_norm([parameter.detach() for parameter in parameters]))


def is_finite(state: Any) -> bool:
    """Whether all numbers in nested mappings, sequences and tensors are finite."""
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
