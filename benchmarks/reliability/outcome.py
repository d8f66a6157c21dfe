"""What a run ended in: everything that must not depend on what happened on the way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MACHINE = ("time/", "throughput/", "memory/")  # metrics of the machine, not of the method
_OF_THE_MACHINE = ("seconds", "peak_memory_bytes", "run_dir")
_LEFT_BEHIND = re.compile(r"\..*\.\d+|unfinished.*|\.replac.*|\.discarded|\..*\.making-.*|\.manifest\.json|\.probe-.*")


@dataclass(frozen=True)
class End:
    """A finished run.

    Attributes:
        state: as status.json has it.
        metrics: rows, without those of the machine.
        generations: rows.
        result: without times and memory, paths relative to the case's.
        weights: {file: SHA-256} of every exported tensor.
        cache: {file: SHA-256} of what is cached.
        left_behind: temporary files that are still there.
    """

    state: str
    metrics: list[dict[str, Any]]
    generations: list[dict[str, Any]]
    result: Any
    weights: Mapping[str, str]
    cache: Mapping[str, str]
    left_behind: tuple[str, ...]

    def differs_from(self, other: End) -> list[str]:
        """What is not the same, by name; empty where the runs ended alike."""
        names = ("state", "metrics", "generations", "result", "weights", "cache", "left_behind")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def end(run: Path, cache: Path, root: Path) -> End:
    """The end of the run in this folder.

    Raises:
        OSError, ValueError: if it has none, or it is damaged.
    """
    rows = [json.loads(line) for line in _lines(run / "metrics.jsonl")]
    return End(
        state=json.loads((run / "status.json").read_text())["state"],
        metrics=[{k: v for k, v in row.items() if not k.startswith(MACHINE)} for row in rows],
        generations=[json.loads(line) for line in _lines(run / "generations.jsonl")],
        result=_portable(json.loads((run / "result.json").read_text()), str(root)),
        weights=_hashes(run, "*.safetensors"),
        cache={name: value for name, value in _hashes(cache, "*").items() if "/manifest.json" not in name},
        left_behind=tuple(sorted(left_behind(run) + left_behind(cache))),
    )


def left_behind(folder: Path) -> list[str]:
    """Temporary files and folders below it."""
    if not folder.is_dir():
        return []
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if _LEFT_BEHIND.fullmatch(path.name)]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _hashes(folder: Path, pattern: str) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    found = (path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def _portable(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {k: _portable(v, root) for k, v in value.items() if k not in _OF_THE_MACHINE and k != "sha256"}
    if isinstance(value, list):
        return [_portable(each, root) for each in value]
    return value.replace(root, "@") if isinstance(value, str) else value
