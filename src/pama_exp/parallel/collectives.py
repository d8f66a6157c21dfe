"""Sums, gathers and ranks over the processes of one run.

Everything here also works without a process group: there is then one process, of rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pama_exp.errors import UserError

Value = TypeVar("Value")
_BUCKET_BYTES = 2**26  # of gradients summed in one message: few messages, and little memory beside the gradients


def size() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if _is_grouped() else 1


def rank() -> int:
    """The rank of this process, counted from 0."""
    return dist.get_rank() if _is_grouped() else 0


def is_main() -> bool:
    """Whether this is rank 0, the only process that writes files and prints."""
    return rank() == 0


def share(count: int) -> list[int]:
    """The indices, out of range(count), of the rows that belong to this process. Each row belongs to one process."""
    return list(range(rank(), count, size()))


def gather(value: Value) -> list[Value]:
    """Every process's value, in the order of ranks. Tensors are copied through main memory."""
    if size() == 1:
        return [value]
    values: list[Value | None] = [None] * size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each place is filled now


def gather_each(compute: Callable[[], Value]) -> list[Value]:
    """The result of `compute` in every process, in the order of ranks.

    Raises:
        UserError: if `compute` raises one in any process; the one of the lowest rank is raised in all of them.
    """
    if size() == 1:
        return [compute()]
    outcome: tuple[Value | None, UserError | None]
    try:
        outcome = (compute(), None)
    except UserError as error:
        outcome = (None, UserError(error.message, error.hint))
    outcomes = gather(outcome)
    for _, mistake in outcomes:
        if mistake is not None:
            mistake.is_shared = True
            raise mistake
    return [value for value, _ in outcomes]  # type: ignore[misc]  # none is None now


def highest(number: int) -> int:
    """The largest `number` of all processes."""
    return max(gather(number))


def total(tensor: Tensor) -> Tensor:
    """The sum over processes, bitwise equal in each; the tensor itself if there is one process."""
    if size() == 1:
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


def totals(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum over processes of each scalar tensor, in one message."""
    if size() == 1 or not values:
        return dict(values)
    summed = total(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, summed.unbind(), strict=True))


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over processes, in place, in messages of bounded size."""
    if size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, summed in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def is_sharded(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether each process holds a shard of the parameters (FSDP2), not a full replica."""
    return any(hasattr(parameter, "to_local") for parameter in parameters)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of the tensor; the tensor itself if it is not sharded."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def full(tensor: Tensor) -> Tensor:
    """The tensor gathered from the shards of all processes. Every process must call this."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over processes, in place.

    Gradients of replicas are summed here. Gradients of shards are means already (FSDP2), and are multiplied by the
    number of processes. A parameter must have a gradient on all processes, or on none.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients:
        if hasattr(gradient, "to_local"):
            gradient.to_local().mul_(size())
    add_up([gradient for gradient in gradients if not hasattr(gradient, "to_local")])


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, in groups of one type and of bounded size, each of at least one tensor."""
    buckets: list[list[Tensor]] = []
    filled = 0
    for tensor in tensors:
        filled += tensor.nbytes
        if not buckets or buckets[-1][0].dtype != tensor.dtype or filled > _BUCKET_BYTES:
            buckets.append([])
            filled = tensor.nbytes
        buckets[-1].append(tensor)
    return buckets


def _is_grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
