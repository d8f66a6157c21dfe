"""One run in several processes: who they are, who does what, and how they put their parts together.

Everything here also works without a process group, where there is one process and nothing to put together.
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
    """How many processes work on this run."""
    return dist.get_world_size() if _is_grouped() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return dist.get_rank() if _is_grouped() else 0


def is_main() -> bool:
    """Whether this is the process that writes: files, tables and what a person sees."""
    return rank() == 0


def share(count: int) -> list[int]:
    """This process's rows of `count`: every row is some process's, and none is two processes'."""
    return list(range(rank(), count, size()))


def gather(value: Value) -> list[Value]:
    """Every process's value, in the order of their ranks. Tensors travel by way of main memory."""
    if size() == 1:
        return [value]
    values: list[Value | None] = [None] * size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each place is filled now


def gather_each(compute: Callable[[], Value]) -> list[Value]:
    """What `compute` gives in every process, in the order of their ranks.

    Raises:
        UserError: the first that `compute` raises in one of them, raised in all.
    """
    if size() == 1:
        return [compute()]
    told: tuple[Value | None, UserError | None]
    try:
        told = (compute(), None)
    except UserError as error:
        told = (None, UserError(error.message, error.hint))
    everyones = gather(told)
    for _, mistake in everyones:
        if mistake is not None:
            mistake.is_shared = True
            raise mistake
    return [value for value, _ in everyones]  # type: ignore[misc]  # each is there now


def highest(number: int) -> int:
    """The largest of the processes' numbers."""
    return max(gather(number))


def total(tensor: Tensor) -> Tensor:
    """Sum over processes, the same bits on each of them; the tensor itself where there is one process."""
    if size() == 1:
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


def totals(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over processes of scalars, in one message."""
    if size() == 1 or not values:
        return dict(values)
    summed = total(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, summed.unbind(), strict=True))


def add_up(tensors: Sequence[Tensor]) -> None:
    """Put the sum over processes into each of the tensors, in few messages and little memory besides."""
    if size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, summed in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def is_sharded(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether each process holds a part of the parameters (FSDP2) rather than a replica of all of them."""
    return any(hasattr(parameter, "to_local") for parameter in parameters)


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that this process holds."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held


def full(tensor: Tensor) -> Tensor:
    """The tensor put together from the parts that the processes hold; all of them must ask."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Make each gradient the sum over processes of what each one's share of the batch gave it.

    Replicas are summed here. Of shards FSDP2 has already made the mean. A parameter that no process's loss reached
    must be without a gradient on all of them.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients:
        if hasattr(gradient, "to_local"):
            gradient.to_local().mul_(size())
    add_up([gradient for gradient in gradients if not hasattr(gradient, "to_local")])


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, in groups of one type and of bounded size (but of one tensor at least)."""
    buckets: list[list[Tensor]] = []
    held = 0
    for tensor in tensors:
        held += tensor.nbytes
        if not buckets or buckets[-1][0].dtype != tensor.dtype or held > _BUCKET_BYTES:
            buckets.append([])
            held = tensor.nbytes
        buckets[-1].append(tensor)
    return buckets


def _is_grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
