"""Policies larger than one device: parameters sharded over processes (FSDP2), and activation checkpointing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pama_exp.parallel import collectives
from pama_exp.policy.policy import Policy


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's transformer blocks, first to last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_activations(model: nn.Module) -> None:
    """Activation checkpointing: keep only each block's input for the backward pass, which recomputes the rest.

    transformers' own setting has no effect in evaluation mode, in which the policy is trained (without dropout).
    """
    for block in blocks_of(model):
        block.forward = _recomputed(block.forward)


def shard(policy: Policy, reference: nn.Module | None, mesh: DeviceMesh, offload_to_cpu: bool) -> None:
    """Shard every parameter over the processes of the mesh; blocks are gathered one at a time as they run.

    Args:
        policy: sharded block by block; what is outside the blocks, value heads included, is one more shard.
        reference: its blocks are sharded too; None if the policy is its own reference.
        mesh: a mesh of one dimension.
        offload_to_cpu: whether the policy's parameters, gradients and optimiser state stay in main memory.
    """
    # It warns of outputs that are views, which matters only to models that change them in place; transformers' do not.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload_to_cpu else OffloadPolicy()
    for block in blocks_of(policy.model):
        fully_shard(block, mesh=mesh, offload_policy=offload)
    for block in [] if reference is None else blocks_of(reference):
        fully_shard(block, mesh=mesh)
    # FSDP2 would leave the outermost shard gathered after a pass without gradients; `parameters()` would then return
    # parameters that are never trained.
    fully_shard(policy, mesh=mesh, reshard_after_forward=True, offload_policy=offload)
    register_fsdp_forward_method(policy, "score_rollout")


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the block every process holds all parameters, and can generate at its own pace; no effect if not sharded.

    Blocks that are gathered as they run would need all processes to make the same number of passes.
    """
    shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if shards:
        shards[0]._get_fsdp_state()._lazy_init()  # before a block's first pass, which would take the block for the root
    for part in shards:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in shards:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def gather_for_saving(module: nn.Module) -> None:
    """Gather every sharded parameter into main memory, on the main process only; no effect if not sharded.

    Afterwards the module can only be saved.
    """
    full: dict[int, nn.Parameter] = {}  # by id, as tied weights are gathered once
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None or not hasattr(parameter, "full_tensor"):
                continue
            if id(parameter) not in full:
                values = collectives.full(parameter.detach())  # each process gives its part
                values = values.cpu() if collectives.is_main() else values.new_empty(0, device="cpu")
                full[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            part._parameters[name] = full[id(parameter)]


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
