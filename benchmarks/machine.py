"""What the machine can do, measured, and what a step needs of it: the floor."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pama_exp.parallel.products import products

RESULTS = Path(__file__).parent / "results"
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def seconds(function: Callable[[], object], device: str = "cpu", repeats: int = 7) -> float:
    """The least of several times, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def peak_bytes() -> int:
    """The most memory this process has held (Linux); getrusage would count what its parent held when it started it."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def matmul_rate(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Operations a second of a large square product, by the library that a run would take."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with products():
        return 2 * size**3 / seconds(lambda: a @ b, device)


def copy_rate(device: str = "cpu") -> float:
    """Bytes read and written a second by a copy of half a gigabyte."""
    a = torch.zeros(2**27, device=device)
    b = torch.zeros_like(a)
    return 2 * a.numel() * a.element_size() / seconds(lambda: b.copy_(a), device)


def floor(
    layers: int,
    width: int,
    vocabulary: int,
    prompts: int,
    responses: int,
    prompt: int,
    response: int,
    bytes_each: int = 4,
    trunk: float | None = None,
    kv_width: int | None = None,
) -> dict[str, dict[str, float]]:
    """Operations and bytes that each phase cannot do without, every distinct prompt being read once.

    Products with weights and attention's own count as operations. Bytes: decoding reads all weights and what the cache
    holds for each token; the update reads and writes logits and their gradients once, and parameter, gradient and both
    moments as AdamW and the clipping of the gradient do. `trunk` is the number of weights between the embeddings and
    the head, if it is not 12 width² a layer; `kv_width` the width of a layer's keys, if it is not the layer's.
    """
    trunk, head = layers * 12 * width**2 if trunk is None else trunk, vocabulary * width
    fed, said = prompts * prompt + responses * (response - 1), responses * response
    looks = prompts * prompt**2 / 2 + responses * (response - 1) * (prompt + response / 2)
    once = 2 * trunk * fed + 2 * head * said + 4 * width * layers * looks
    weights, logits = bytes_each * (trunk + head), 4 * said * vocabulary
    cache = bytes_each * 2 * (width if kv_width is None else kv_width) * layers * looks
    return {
        "generate": {"operations": once, "bytes": weights * response + cache},
        "reference": {"operations": once, "bytes": weights + 2 * logits},
        "update": {"operations": 3 * once, "bytes": 10 * 4 * (trunk + head) + 4 * logits},
    }


def floor_seconds(need: dict[str, float], matmul: float, copy: float) -> float:
    """Whichever takes longer."""
    return max(need["operations"] / matmul, need["bytes"] / copy)


def describe(device: str = "cpu") -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def save(name: str, data: dict[str, object], figure: Figure) -> None:
    """benchmarks/results/<name>.json and .png."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    figure.savefig(RESULTS / f"{name}.png", dpi=150)
