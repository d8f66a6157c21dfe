"""Transformer blocks compiled by torch, for the passes that have no key-value cache: the update and the reference."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch
from torch import nn

from pama_exp.policy.sharding import blocks_of

_VARIANTS = 32  # of one block: with and without gradients, with and without padding, one response or several


def compile_blocks(model: nn.Module) -> None:
    """Have every transformer block compiled when it first runs; blocks that are alike are compiled once.

    Blocks, not the model: what is between them is little, and compiling all of it would take as long again for each.
    Shapes are dynamic, so that the rollouts of later steps find what was made in the first. Rollout engines run the
    blocks as they were written (`torch.compiler.set_stance`): with a cache each block would be compiled on its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    # The Gramian of gradients goes back through one graph several times, for which its buffers must be left alone.
    torch._functorch.config.donated_buffer = False
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward, dynamic=True)


def missing_compiler(accelerator: str) -> str | None:
    """What torch would need here to compile for it, and does not find; None if all is there."""
    if accelerator in ("gpu", "cuda"):
        return None if find_spec("triton") else "triton"
    return None if any(map(shutil.which, ("g++", "clang++"))) else "C++ compiler (g++ or clang++)"
