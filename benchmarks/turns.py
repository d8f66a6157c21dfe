"""Contenders that take turns: each is a process with its own training loop, and makes a step when told to.

So each side runs as its users run it, and both meet the same noise of the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import machine


def wait_for_turn() -> None:
    """In a contender: the parent says when; the end of its input means that it is over."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        os._exit(0)


def report(phases: dict[str, float]) -> None:
    """In a contender: a step's seconds by phase, and the most memory that the process has held."""
    print("step " + json.dumps({**phases, "peak_memory_bytes": machine.peak_bytes()}), flush=True)


class Contender:
    """A process that makes a step when told to; `script` is run with `arguments`."""

    def __init__(self, script: str, arguments: Sequence[str]) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "WANDB_MODE": "disabled"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(script).parent), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._read("ready")

    def step(self) -> dict[str, float]:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        found = json.loads(self._read("step"))
        self._read("ready")
        return found

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")


def take_turns(contenders: dict[str, Contender], rounds: int, warm_up: int = 1) -> dict[str, list[dict[str, float]]]:
    """`rounds` steps of each, in turn, after some that do not count."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        for name, contender in contenders.items():
            found = contender.step()
            if turn >= warm_up:
                rows[name].append(found)
                print(f"{turn - warm_up + 1}/{rounds}  {name:14s} {found['step']:.3f} s", flush=True)
    for contender in contenders.values():
        contender.close()
    return rows


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each phase over the rounds."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def median_ratio(rows: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Of whole steps, taken within each round."""
    return statistics.median(a["step"] / b["step"] for a, b in zip(rows, others, strict=True))
