"""The optimizer of an alignment and its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import get_scheduler

from pama_exp.policy.policy import Policy
from pama_exp.training.gramian import trainable
from pama_exp.training.master_weights import MasterWeightAdamW, is_half


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW and its learning-rate schedule; `steps` and `warmup_steps` count alignment steps."""

    learning_rate: float
    value_learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    steps: int
    map_learning_rate: float | None = None  # of the preference map; None: the model's


def build_optimizer(policy: Policy, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trained parameters of model, value heads and preference map, each with its own learning rate.

    16-bit parameters get float32 master copies.
    """
    groups: list[dict[str, Any]] = [
        {"params": trainable(policy.model)},
        {"params": trainable(policy.value_heads), "lr": settings.value_learning_rate},
    ]
    if policy.preference_map is not None:
        rate = settings.learning_rate if settings.map_learning_rate is None else settings.map_learning_rate
        groups.append({"params": trainable(policy.preference_map), "lr": rate})
    has_half = any(is_half(parameter) for group in groups for parameter in group["params"])
    kind = MasterWeightAdamW if has_half else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95), fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> Any:
    """The learning-rate schedule: constant, linear or cosine after a warm-up."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, settings.warmup_steps, settings.steps)
