"""Settings of the stages that learn from pairs, mix experts while decoding, and judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pama_exp.config.ranges import OneOf, Range
from pama_exp.config.validity import setting

_MANY = 1_000_000


@dataclass
class DPOConfig:
    """What `stage=dpo` learns from pairs, and how; its seed is the run's."""

    method: str = setting("dpo", OneOf("dpo", "modpo", "mo-odpo"))
    objective: str | None = None
    beta: float = setting(0.1, Range(above=0))
    label_smoothing: float = setting(0.0, Range(least=0, below=0.5))
    margin_scale: float = setting(1.0, Range(above=0))
    bad_pairs: str = setting("refuse", OneOf("refuse", "skip"))
    examples: int = setting(8192, Range(least=1, most=100 * _MANY))
    label_noise: float = setting(0.05, Range(least=0, below=0.5))
    steps: int = setting(200, Range(least=0))  # 0: the policy stays as it is
    batch_size: int = setting(32, Range(least=1, most=_MANY))
    learning_rate: float = setting("${oc.select:model.learning_rate,3.0e-4}", Range(least=0))
    warmup_steps: int = setting(10, Range(least=0))
    weight_decay: float = setting(0.0, Range(least=0))
    max_length: int = setting(512, Range(least=1))
    checkpoint_every: int = setting(50, Range(least=0))  # 0: never


@dataclass
class MODConfig:
    """What `stage=mod` mixes: finished runs of one objective each, at all shares in steps of 1/grid."""

    runs: list[str] = setting([])
    grid: int = setting(4, Range(least=1, most=1000))


@dataclass
class JudgeConfig:
    """What `stage=judge` compares with the SFT policy, and the scorer that it asks."""

    runs: list[str] = setting([])
    scorer: dict[str, Any] | None = None
    direction: str = setting("maximize", OneOf("maximize", "minimize"))
    responses: int = setting(4, Range(least=1, most=1000))
    split: str = setting("test", OneOf("train", "validation", "test"))
    prompts: int = setting(256, Range(least=1, most=_MANY))
