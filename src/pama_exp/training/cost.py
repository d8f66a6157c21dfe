"""The cost of a run: sequences, passes, seconds and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """The cost of a run so far.

    `forwards` and `backwards` count sequences, not batches, through the trunk of policy or reference outside
    generation. Diagnostics and evaluations are not counted.
    """

    prompts: int = 0
    tokens: int = 0
    reward_calls: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory in use so far, in bytes: of the GPU's allocator, or the process's resident set on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts from the parent process's size
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
