"""What a configuration may hold: dataclasses, the checks that need no work to have started, and the resolvers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.errors import UserError, refuse_secrets, suggest
from pama_exp.safety.secrets import secrets_in

_PACKAGE = Path(__file__).parents[1]
# The shipped configuration: beside the package in a checkout, within it in a wheel.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


@dataclass
class ModelConfig:
    """The policy: a Hub id, a local folder, or an architecture whose weights start at random."""

    name: str = "???"
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    weights: str = "random"
    tokenizer: str | None = None
    architecture: str | None = "opt"
    config: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    dtype: str = "float32"
    learning_rate: float = 3e-4
    value_learning_rate: float = 3e-3
    lora_targets: list[str] | None = None
    chat_template: str = "none"
    allow_pickle: bool = False
    pickled: bool = False
    licence: str = ""
    gated: bool = False


@dataclass
class AdapterConfig:
    """What of the policy is trained: all of it, or low-rank additions to a frozen base (Hu et al. 2021)."""

    name: str = "none"
    bits: int | None = None
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] | None = None
    export: str = "merged"


@dataclass
class ConditioningConfig:
    """Whether the policy is told each prompt's preference, and how; from `levels` on, of conditioning=prompt."""

    name: str = "none"
    concentration: float = 1.0
    grid: int = 4
    learning_rate: float | None = None
    levels: int = 20
    item: str = "{name}: {share}"
    separator: str = ", "
    end: str = "\n"


@dataclass
class DataConfig:
    """Where prompts come from; `domain` is what objectives are looked up by. What follows `world` is for text."""

    domain: str = "factworld"
    world: dict[str, Any] = field(default_factory=dict)
    evaluation_prompts: int = 256
    sft_learning_rate: float = 4e-3
    reward_model_learning_rate: float = 1e-3
    path: str | None = None
    id: str | None = None
    revision: str | None = None
    subsets: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    format: str = "prompt"
    column: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    prefix_tokens: list[int] = field(default_factory=lambda: [2, 7])
    min_characters: int = 1
    min_prompt_tokens: int = 1
    max_prompt_tokens: int = 512
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.9, "validation": 0.05, "test": 0.05})
    seed: int = 0


@dataclass
class ObjectiveConfig:
    """One objective: how it is scored in each data domain, and how much it counts."""

    description: str = ""
    weight: float = 1.0
    direction: str = "maximize"
    normaliser: str = "none"
    range: list[float] | None = None
    scorers: dict[str, Any] = field(default_factory=dict)


@dataclass
class FitConfig:
    """Supervised training of the SFT policy or of a reward model."""

    examples: int = 4096
    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01
    seed: int = 0
    label_noise: float = 0.0
    max_length: int = 512
    packing: bool = False


@dataclass
class KLConfig:
    """How the policy is kept near the reference: in every objective's return, in the loss, or once for all of them."""

    placement: str = "reward"
    estimator: str = "k1"
    coefficient: float = 0.05
    target: float | None = None
    horizon: int = 10000


@dataclass
class GramianConfig:
    """Which gradients a solver that asks for their Gramian is given, and how many are held at once."""

    target: str = "full"
    hold: str = "all"
    sketch_dimension: int = 4096


@dataclass
class TrainingConfig:
    """One alignment run: how many steps, and what one update does with the rollout it was given."""

    steps: int = 60
    batch_size: int = 64
    epochs: int = 2
    mini_batch_size: int = 64
    micro_batch_tokens: int = 16384
    learning_rate: float = 3e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coefficient: float = 0.5
    value_learning_rate: float = 3e-3
    critic_shapes_trunk: bool = False
    entropy_coefficient: float = 0.0
    max_grad_norm: float = 1.0
    scale_combined: bool = False
    target_kl: float | None = None
    importance_cap: float | None = None
    kl: KLConfig = field(default_factory=KLConfig)
    gramian: GramianConfig = field(default_factory=GramianConfig)
    evaluate_every: int = 20
    checkpoint_every: int = 10
    diagnostics_every: int = 10
    diagnostics_target: str = "auto"
    calibration_prompts: int = 256


@dataclass
class SamplingConfig:
    """Sampling of responses; the same temperature divides the logits at the update."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass
class RolloutConfig:
    """The generation engine and how it samples."""

    engine: dict[str, Any] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class TrainerConfig:
    """Where it runs: Lightning's accelerator, devices and precision, and how several processes share the work."""

    strategy: str = "single"
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    activation_checkpointing: bool = False
    compile: bool = False
    cpu_offload: bool = False
    threads: int | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether the policy computes on a GPU."""
        return self.accelerator in ("gpu", "cuda")


@dataclass
class LoggerConfig:
    """Where metrics go besides the run's own record; `mode` and what follows it are W&B's."""

    kinds: list[str] = field(default_factory=list)
    mode: str = "auto"
    project: str = "pama-exp"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: bool = False


@dataclass
class EvaluateConfig:
    """What `stage=evaluate` looks at: a finished run's folder; the SFT policy when null."""

    run: str | None = None
    split: str = "test"
    prompts: int = 256


@dataclass
class CompareConfig:
    """What `stage=compare` reads: folders that are runs or hold runs, and whom the others are tested against."""

    runs: list[str] = field(default_factory=lambda: ["runs"])
    baseline: str | None = None


@dataclass
class SoupConfig:
    """What `stage=soup` averages: finished runs of one objective each, at all shares in steps of 1/grid."""

    runs: list[str] = field(default_factory=list)
    grid: int = 4


@dataclass
class Config:
    """The whole configuration of a run."""

    stage: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objectives: dict[str, ObjectiveConfig] = field(default_factory=dict)
    reward: str = "learned"
    solver: dict[str, Any] = field(default_factory=dict)
    advantage: dict[str, Any] = field(default_factory=dict)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: FitConfig = field(default_factory=FitConfig)
    reward_model: FitConfig = field(default_factory=FitConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    soup: SoupConfig = field(default_factory=SoupConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    output: str = "???"
    cache_dir: str = "???"
    force: bool = False
    preflight: bool = False


CHOICES = {
    "reward": ("gold", "learned"),
    "data.format": ("prompt", "messages", "transcript", "prefix", "whole"),
    "model.weights": ("pretrained", "random"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.chat_template": ("none", "tokenizer"),
    "adapter.name": ("none", "lora", "lora-8bit", "lora-4bit"),
    "adapter.export": ("merged", "adapter"),
    "conditioning.name": ("none", "embedding", "prompt"),
    "training.schedule": ("constant", "linear", "cosine"),
    "training.kl.placement": ("reward", "loss", "combined"),
    "training.kl.estimator": ("k1", "k2", "k3"),
    "training.gramian.target": ("full", "adapter", "last-layer", "sketch", "hidden", "advantages"),
    "training.gramian.hold": ("all", "host", "one"),
    "training.diagnostics_target": ("auto", "full", "adapter", "last-layer", "sketch", "hidden"),
    "trainer.strategy": ("single", "ddp", "fsdp"),
    "logger.mode": ("auto", "online", "offline", "disabled"),
    "evaluate.split": ("train", "validation", "test"),
}


def typed(composed: DictConfig | Mapping[str, Any]) -> Config:
    """The configuration merged into the schema, resolved, and checked.

    Args:
        composed: by Hydra, or plain values.

    Raises:
        UserError: for an unknown key (with the nearest valid one), a value of the wrong type, or one not offered; also
            for a secret in plain.
    """
    given = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    _refuse_unknown_keys(given, OmegaConf.structured(Config), "")
    try:
        config = cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), given)))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise UserError(
            f"{error.full_key or 'the configuration'}: {reason}", "Give a value of the type named."
        ) from None
    refuse_secrets(secrets_in(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))))
    for key, choices in CHOICES.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value not in choices:
            raise UserError(f"{key}={value} is not one of its values.", suggest(value, choices))
    return config


def _refuse_unknown_keys(given: Any, schema: Any, path: str) -> None:
    """Walk both trees; free-form nodes (dict[str, Any]) are their owners' to check."""
    for key in given:
        here = f"{path}{key}"
        node_type = OmegaConf.get_type(schema)
        if is_dataclass(node_type):
            valid = [f.name for f in fields(node_type)]
            if key not in valid:
                raise UserError(f"Unknown key '{here}'.", suggest(str(key), valid))
            child = schema._get_node(key)
        else:
            child = OmegaConf.structured(ObjectiveConfig) if path == "objectives." else None
        value = given._get_node(key)
        if isinstance(child, DictConfig) and isinstance(value, DictConfig) and value._is_none() is False:
            _refuse_unknown_keys(value, child, here + ".")
