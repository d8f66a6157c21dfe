"""What a run ran on: the command, versions of packages, hardware, and the commit of the source."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pama_exp.parallel.products import library
from pama_exp.safety.secrets import redact

_PACKAGES = (
    "pama-exp",
    "torch",
    "transformers",
    "tokenizers",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "torchjd",
    "wandb",
)


def environment(command: Sequence[str]) -> dict[str, Any]:
    """The content of environment.json, with secrets in the command's words hidden."""
    return {
        "command": [redact(word) for word in command],
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": {
            "model": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "products": library(),
        },
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git() -> dict[str, Any] | None:
    """The commit, and whether there are uncommitted changes; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
