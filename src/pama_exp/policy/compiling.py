"""Compilation of transformer blocks by torch, for passes without a key-value cache: the update and the reference."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch
from torch import nn

from pama_exp.policy.sharding import blocks_of

_VARIANTS = 32  # compilations of one block: with and without gradients or padding, one response or several


def compile_blocks(model: nn.Module) -> None:
    """Compile every transformer block at its first run; identical blocks share one compilation.

    Compiling the whole model would take as long again for each block and gain little. Shapes are dynamic: later steps
    reuse the first step's compilation. Rollout engines run the blocks uncompiled (`torch.compiler.set_stance`), since
    with a cache each block would be compiled separately.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    # The Gramian runs several backward passes through one graph, which must keep its buffers.
    torch._functorch.config.donated_buffer = False
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward, dynamic=True)


def missing_compiler(accelerator: str) -> str | None:
    """The compiler that torch needs for this accelerator and does not find; None if nothing is missing."""
    if accelerator in ("gpu", "cuda"):
        return None if find_spec("triton") else "triton"
    return None if any(map(shutil.which, ("g++", "clang++"))) else "C++ compiler (g++ or clang++)"
