"""What a run has cost: sequences, passes, seconds and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """What a run has cost.

    `forwards` and `backwards` count sequences passed through the policy's or the reference's trunk outside generation,
    so that they do not depend on how sequences were batched. Diagnostics and evaluations are not counted.
    """

    prompts: int = 0
    tokens: int = 0
    reward_calls: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: by the device's allocator, or the process's resident set on a processor."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's count begins at what the parent had
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
