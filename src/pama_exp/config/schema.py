"""The schema of the configuration: the type, default and range of each setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pama_exp.config.family_settings import DPOConfig, JudgeConfig, MODConfig
from pama_exp.config.places import CONF as CONF
from pama_exp.config.ranges import Bounds, Filled, OneOf, Range, Shares
from pama_exp.config.validity import (
    check_architecture,
    check_scorer,
    check_scorers,
    check_stage,
    check_unused,
    merged,
    setting,
)
from pama_exp.errors import refuse_secrets
from pama_exp.safety.secrets import secrets_in

# Upper bound of counts: refuses typing errors before they exhaust the memory.
_MANY = 1_000_000
_SEED = Range(least=0, most=2**32 - 1)
_RATE = Range(least=0)  # 0 measures without learning
_COUNT = Range(least=1, most=_MANY)
_STEPS = Range(least=1, most=1_000_000_000)
_EVERY = Range(least=0)  # 0: never


@dataclass
class ModelConfig:
    """The policy: a Hub id, a local folder, or an architecture whose weights start at random."""

    name: str = "???"
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    weights: str = setting("random", OneOf("pretrained", "random"))
    tokenizer: str | None = None
    architecture: str | None = "opt"
    config: dict[str, Any] = setting({})
    parameters: int | None = setting(None, Range(least=1))
    dtype: str = setting("float32", OneOf("float32", "bfloat16", "float16"))
    learning_rate: float = setting(3e-4, _RATE)
    value_learning_rate: float = setting(3e-3, _RATE)
    lora_targets: list[str] | None = None
    chat_template: str = setting("none", OneOf("none", "tokenizer"))
    allow_pickle: bool = False
    pickled: bool = False
    licence: str = ""
    gated: bool = False


@dataclass
class AdapterConfig:
    """Which weights are trained: all, or low-rank adapters of a frozen base (LoRA, Hu et al. 2021)."""

    name: str = setting("none", OneOf("none", "lora", "lora-8bit", "lora-4bit"))
    bits: int | None = setting(None, OneOf(4, 8))
    rank: int = setting(16, Range(least=1, most=65536))
    alpha: float = setting(32.0, Range(above=0))
    dropout: float = setting(0.0, Range(least=0, below=1))
    targets: list[str] | None = None
    export: str = setting("merged", OneOf("merged", "adapter"))


@dataclass
class ConditioningConfig:
    """Whether and how the policy is conditioned on a preference; from `levels` on, for conditioning=prompt."""

    name: str = setting("none", OneOf("none", "embedding", "adapter", "prompt"))
    concentration: float = setting(1.0, Range(above=0))
    grid: int = setting(4, Range(least=1, most=1000))
    learning_rate: float | None = setting(None, _RATE)
    levels: int = setting(20, Range(least=1, most=1000))
    item: str = "{name}: {share}"
    separator: str = ", "
    end: str = "\n"


@dataclass
class DataConfig:
    """The data. `domain` chooses the objectives' scorers, `world` is for FactWorld, `path` and the rest for text."""

    domain: str = "factworld"
    world: dict[str, Any] = setting({})  # the parameters of FactWorld, which says their ranges
    evaluation_prompts: int = setting(256, _COUNT)
    sft_learning_rate: float = setting(4e-3, _RATE)
    reward_model_learning_rate: float = setting(1e-3, _RATE)
    path: str | None = None
    id: str | None = None
    revision: str | None = None
    subsets: list[str] = setting([])
    files: list[str] = setting([])
    format: str = setting("prompt", OneOf("prompt", "messages", "transcript", "prefix", "whole"))
    column: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    choice: str | None = None
    choice_kind: str = setting("index", OneOf("index", "sign"))
    prefix_tokens: list[int] = setting([2, 7], Bounds(least=1, equal=True))
    min_characters: int = setting(1, Range(least=0))
    min_prompt_tokens: int = setting(1, Range(least=0))
    max_prompt_tokens: int = setting(512, Range(least=1))
    splits: dict[str, float] = setting(
        {"train": 0.9, "validation": 0.05, "test": 0.05}, Shares("train", "validation", "test")
    )
    seed: int = setting(0, _SEED)


@dataclass
class ObjectiveConfig:
    """One objective: its weight, direction and normaliser, and its scorer for each data domain."""

    description: str = ""
    weight: float = setting(1.0, Range(least=0))
    direction: str = setting("maximize", OneOf("maximize", "minimize"))
    normaliser: str = setting("none", OneOf("none", "running", "frozen"))
    range: list[float] | None = setting(None, Bounds())
    scorers: dict[str, Any] = setting({})


@dataclass
class FitConfig:
    """Supervised training of the SFT policy or of a reward model; the defaults are those of the SFT policy."""

    examples: int = setting(8192, Range(least=1, most=100 * _MANY))
    steps: int = setting(300, Range(least=0))  # 0: the model stays as it is
    batch_size: int = setting(64, _COUNT)
    learning_rate: float = setting("${oc.select:data.sft_learning_rate,4.0e-3}", _RATE)
    warmup_steps: int = setting(20, Range(least=0))
    weight_decay: float = setting(0.01, Range(least=0))
    seed: int = setting(0, _SEED)
    label_noise: float = setting(0.0, Range(least=0, below=0.5))
    max_length: int = setting(512, Range(least=1))
    packing: bool = False


@dataclass
class RewardModelConfig(FitConfig):
    """Supervised training of a reward model: the settings of `FitConfig` with a reward model's defaults."""

    examples: int = setting(20480, Range(least=1, most=100 * _MANY))
    steps: int = setting(1280, Range(least=0))
    batch_size: int = setting(16, _COUNT)
    learning_rate: float = setting("${oc.select:data.reward_model_learning_rate,1.0e-3}", _RATE)
    warmup_steps: int = setting(10, Range(least=0))
    label_noise: float = setting(0.05, Range(least=0, below=0.5))


@dataclass
class KLConfig:
    """The KL penalty: in every objective's return (reward), in the loss, or once in the combined advantage."""

    placement: str = setting("reward", OneOf("reward", "loss", "combined"))
    estimator: str = setting("k1", OneOf("k1", "k2", "k3"))
    coefficient: float = setting(0.15, Range(least=0))
    target: float | None = setting(None, Range(above=0))
    horizon: int = setting(10000, Range(least=1))


@dataclass
class GramianConfig:
    """The gradients whose Gramian a solver gets, and how many of them are held at once."""

    target: str = setting("full", OneOf("full", "adapter", "last-layer", "sketch", "hidden", "advantages"))
    hold: str = setting("all", OneOf("all", "host", "one"))
    sketch_dimension: int = setting(4096, _COUNT)


@dataclass
class TrainingConfig:
    """Alignment: the number of steps, and the settings of an update."""

    steps: int = setting(60, _STEPS)
    batch_size: int = setting(64, _COUNT)
    epochs: int = setting(2, _COUNT)
    mini_batch_size: int = setting(64, _COUNT)
    micro_batch_tokens: int = setting(16384, Range(least=1))
    learning_rate: float = setting("${oc.select:model.learning_rate,3.0e-4}", _RATE)
    schedule: str = setting("constant", OneOf("constant", "linear", "cosine"))
    warmup_steps: int = setting(0, Range(least=0))
    weight_decay: float = setting(0.0, Range(least=0))
    clip: float = setting(0.2, Range(above=0, below=1))
    value_clip: float | None = setting(0.2, Range(above=0))
    value_coefficient: float = setting(0.5, Range(least=0))
    value_learning_rate: float = setting("${oc.select:model.value_learning_rate,3.0e-3}", _RATE)
    critic_shapes_trunk: bool = False
    entropy_coefficient: float = setting(0.0, Range(least=0))
    max_grad_norm: float = setting(1.0, Range(above=0))
    scale_combined: bool = False
    target_kl: float | None = setting(None, Range(above=0))
    importance_cap: float | None = setting(None, Range(above=0))
    kl: KLConfig = field(default_factory=KLConfig)
    gramian: GramianConfig = field(default_factory=GramianConfig)
    evaluate_every: int = setting(20, _EVERY)
    checkpoint_every: int = setting(10, _EVERY)
    diagnostics_every: int = setting(10, _EVERY)
    diagnostics_target: str = setting("auto", OneOf("auto", "full", "adapter", "last-layer", "sketch", "hidden"))
    calibration_prompts: int = setting(256, Range(least=0, most=_MANY))


@dataclass
class SamplingConfig:
    """Sampling of responses. The update divides the logits by the same temperature."""

    max_new_tokens: int = setting(40, _COUNT)
    temperature: float = setting(1.0, Range(above=0))
    top_p: float = setting(1.0, Range(above=0, most=1))
    top_k: int = setting(0, Range(least=0))


@dataclass
class RolloutConfig:
    """The rollout engine, and the sampling of responses."""

    engine: dict[str, Any] = setting({})
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class TrainerConfig:
    """Lightning's accelerator, devices and precision, and how several processes share the work."""

    strategy: str = setting("single", OneOf("single", "ddp", "fsdp"))
    accelerator: str = setting("cpu", OneOf("cpu", "gpu", "cuda"))
    devices: int = setting(1, Range(least=1, most=1024, also=(-1,)))
    precision: str = setting("32-true", OneOf("32-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed"))
    activation_checkpointing: bool = False
    compile: bool = False
    cpu_offload: bool = False
    threads: int | None = setting(None, Range(least=1, most=4 * (os.cpu_count() or 1)))
    products: str = setting("auto", OneOf("auto", "blas", "onednn"))

    @property
    def uses_gpu(self) -> bool:
        """Whether the policy is on a GPU."""
        return self.accelerator in ("gpu", "cuda")

    @property
    def half_type(self) -> str | None:
        """torch's name of the type of all weights where they have 16 bits, as `16-true` says; None otherwise."""
        return {"bf16-true": "bfloat16", "16-true": "float16"}.get(self.precision)


@dataclass
class LoggerConfig:
    """Loggers besides the run's own record. `mode` and what follows are of W&B."""

    kinds: list[str] = setting(["wandb"])
    mode: str = setting("auto", OneOf("auto", "online", "offline", "disabled"))
    project: str = "pama-exp"
    group: str | None = None
    tags: list[str] = setting([])
    artifacts: bool = False


@dataclass
class EvaluateConfig:
    """What `stage=evaluate` evaluates: the policy of a finished run's folder, or the SFT policy if `run` is null."""

    run: str | None = None
    split: str = setting("test", OneOf("train", "validation", "test"))
    prompts: int = setting(256, _COUNT)


@dataclass
class CompareConfig:
    """What `stage=compare` reads: folders that are or hold runs; and the baseline that others are tested against."""

    runs: list[str] = setting(["runs"])
    baseline: str | None = None


@dataclass
class SoupConfig:
    """What `stage=soup` averages: finished runs of one objective each, with all shares in steps of 1/grid."""

    runs: list[str] = setting([])
    grid: int = setting(4, Range(least=1, most=1000))


@dataclass
class Config:
    """The whole configuration of a run."""

    stage: dict[str, Any] = setting({})
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objectives: dict[str, ObjectiveConfig] = setting({})
    reward: str = setting("learned", OneOf("gold", "learned"))
    solver: dict[str, Any] = setting({})
    advantage: dict[str, Any] = setting({})
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: FitConfig = field(default_factory=FitConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    soup: SoupConfig = field(default_factory=SoupConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    mod: MODConfig = field(default_factory=MODConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = setting(0, _SEED)
    output: str = "???"
    cache_dir: str = setting("???", Filled())
    force: bool = False
    preflight: bool = False


def typed(composed: DictConfig | Mapping[str, Any]) -> Config:
    """The configuration as an instance of the schema, resolved and checked.

    Args:
        composed: by Hydra, or plain nested values.

    Raises:
        UserError: for an unknown key (the hint names the nearest valid one), a value of the wrong type or outside its
            range, an invalid scorer, a setting without effect, or a secret in plain text.
    """
    node = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    config = cast(Config, merged(node, Config))
    refuse_secrets(secrets_in(asdict(config)))
    check_stage(config.stage)
    check_architecture(config.model.config)
    for name, objective in config.objectives.items():
        check_scorers(name, objective.scorers, config.data.domain, CONF)
    if config.judge.scorer is not None:
        check_scorer("judge.scorer", config.judge.scorer)
    check_unused(config.adapter, "adapter")
    check_unused(config.conditioning, "conditioning")
    return config
