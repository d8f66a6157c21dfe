"""What one step of alignment gathers, what an evaluation found, and what a run has cost.

Legend: N objectives, K reward channels (N, or 1 where the solver scalarises rewards), K' surrogate losses,
B responses, T response tokens.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pama_exp.policy.policy import select, trim
from pama_exp.types import Metric, Rollout


@dataclass
class Bill:
    """What a run has cost.

    `forwards` and `backwards` count sequences passed through the policy's or the reference's trunk outside generation,
    so that they do not depend on how sequences were batched. Diagnostics and evaluations are not billed.
    """

    prompts: int = 0
    tokens: int = 0
    reward_calls: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Experience:
    """A scored rollout, ready for the update."""

    rollout: Rollout
    rewards: Tensor  # (N, B) as the solver saw them
    old_log_probs: Tensor  # (B, T)
    reference_log_probs: Tensor  # (B, T)
    old_values: Tensor  # (K, B, T)
    advantages: Tensor  # (K, B, T) one per channel, before the solver
    returns: Tensor  # (K, B, T)
    combined: Tensor  # (K', B, T) after the solver
    mean_rewards: Tensor  # (N, 1) over the whole batch, whichever rows of it these are

    def rows(self, index: Tensor) -> Experience:
        """The responses at `index`, without the padding that they do not need."""
        rollout = trim(select(self.rollout, index))
        length = rollout.response_ids.shape[1]
        rest = {
            field.name: getattr(self, field.name)[..., index, :length]
            for field in fields(self)
            if field.name not in ("rollout", "rewards", "mean_rewards")
        }
        return Experience(rollout=rollout, rewards=self.rewards[:, index], mean_rewards=self.mean_rewards, **rest)

    def per_objective(self) -> Tensor:
        """(N,B,T) advantages for diagnostics; where rewards were scalarised, each reward against the batch's mean."""
        if len(self.advantages) == len(self.rewards):
            return self.advantages
        return (self.rewards - self.mean_rewards)[..., None] * self.rollout.response_mask


@dataclass(frozen=True)
class Evaluation:
    """A policy on held-out prompts: every objective's learned (proxy) and gold reward, and the texts."""

    proxy: Mapping[str, Tensor]
    gold: Mapping[str, Tensor]
    lengths: Tensor
    prompts: Sequence[str]
    responses: Sequence[str]

    def means(self) -> dict[str, dict[str, float | None]]:
        """{objective: {gold, proxy}}; gold is None where no program defines it."""
        return {
            name: {"gold": self.gold[name].mean().item() if name in self.gold else None, "proxy": proxy.mean().item()}
            for name, proxy in self.proxy.items()
        }

    def calibration(self) -> dict[str, dict[str, dict[str, float] | None]]:
        """{objective: {gold, proxy: {mean, deviation}}}: the units in which later policies can be measured."""
        return {
            name: {"gold": _moments(self.gold[name]) if name in self.gold else None, "proxy": _moments(proxy)}
            for name, proxy in self.proxy.items()
        }

    def metrics(self) -> dict[str, float]:
        """Flat names for the record."""
        values = {"eval/response/length": self.lengths.float().mean().item()}
        for kind, table in (("proxy", self.proxy), ("gold", self.gold)):
            for name, rewards in table.items():
                values |= distribution(f"eval/{kind}/{name}", rewards)
        return values

    def rows(self, limit: int) -> list[dict[str, Any]]:
        """The first `limit` generations with their scores, one mapping each."""
        tables = {f"proxy/{k}": v for k, v in self.proxy.items()} | {f"gold/{k}": v for k, v in self.gold.items()}
        return [
            {"prompt": self.prompts[i], "response": self.responses[i], **{k: v[i].item() for k, v in tables.items()}}
            for i in range(min(limit, len(self.prompts)))
        ]


def _moments(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "deviation": values.std(correction=0).item()}


def distribution(name: str, values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quantiles of (B,) rewards under `name`."""
    quantiles = torch.quantile(values.float(), torch.tensor([0.1, 0.5, 0.9])).tolist()
    mean = Metric(float(values.sum()), float(values.numel())).mean
    spread = values.std(correction=0).item()
    return {f"{name}/mean": mean, f"{name}/std": spread} | dict(
        zip([f"{name}/q10", f"{name}/q50", f"{name}/q90"], quantiles, strict=True)
    )


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: by the device's allocator, or the process's resident set on a processor."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's count begins at what the parent had
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
