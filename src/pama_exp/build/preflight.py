"""What a run needs and what is there: parameters, bytes per device, models and data. Nothing is loaded or fetched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from pama_exp.build.assets import assets_of, check_named, whereabouts
from pama_exp.build.parts import check_before_work, make_solver
from pama_exp.build.task import make_world
from pama_exp.config.schema import Config
from pama_exp.hub import repositories
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.loading import max_positions
from pama_exp.policy.memory import Load, memory_parts, parameter_counts, peak
from pama_exp.supervised.start_model import lora_targets, read_tokenizer, skeleton, tokenizer_source
from pama_exp.tracking.console import note, table

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_RUNTIME = 0.5 * 2**30  # the process with its libraries, or the CUDA context
GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Bytes per device by what they are for, and what could not be counted."""

    parts: dict[str, float]
    parameters: int
    trained: int
    unknown: list[str]

    @property
    def peak(self) -> float:
        """The most held at once."""
        rewards = self.parts.get("reward models", 0.0)
        return _RUNTIME + rewards + peak({k: v for k, v in self.parts.items() if k != "reward models"})


def report(config: Config) -> None:
    """Print the tables of `preflight=true`.

    Raises:
        UserError: for whatever the run would refuse, but for what is missing and can be fetched, or a GPU elsewhere.
    """
    check_named(config.model)
    assets = assets_of(config)
    states = whereabouts(assets)
    rows = [
        (a.purpose, a.repo_id + ("" if a.revision is None else f" @ {a.revision[:8]}"), _state(a, state))
        for a, state in zip(assets, states, strict=True)
    ]
    if config.model.path is not None:
        rows.insert(0, ("policy", config.model.path, "local folder" if _is_model(config.model.path) else "missing"))
    if rows:
        table(f"What must be there (cache: {repositories.cache_folder()})", ("for", "what", "where"), rows)
    if "pickled" in states:
        refused = assets[states.index("pickled")]
        raise repositories.pickled(refused.repo_id, str(refused.refused_pickle))
    is_here = config.trainer.accelerator not in ("gpu", "cuda") or torch.cuda.is_available()
    check_before_work(config, all_there=set(states) <= {"cached"}, here=is_here)
    estimate = estimate_memory(config)
    if estimate is None:
        note(f"The size of {config.model.id} is not known before its config.json is cached.")
        return
    free, device = free_bytes(config)
    title = f"Memory per device: {config.model.name}, adapter={config.adapter.name}, {_trainer(config)}"
    sizes = [(name, _size(size)) for name, size in estimate.parts.items()]
    sizes += [("peak", _size(estimate.peak)), ("free", f"{_size(free)}, {device}" if free is not None else device)]
    table(title, ("what", "size"), sizes)
    note(f"Parameters: {estimate.parameters:,}, of which trained: {estimate.trained:,}.")
    for what in estimate.unknown:
        note(f"Not counted: {what}.")
    note(_verdict(config, estimate, free))


def brief(config: Config) -> None:
    """One line before a run whose estimate exceeds what is free."""
    estimate = estimate_memory(config)
    free, _ = free_bytes(config)
    if estimate is not None and free is not None and estimate.peak > free:
        note(_verdict(config, estimate, free))


def estimate_memory(config: Config) -> Estimate | None:
    """Bytes per device; None where the architecture is not known yet."""
    model = _skeleton(config)
    if model is None:
        return None
    total, _ = parameter_counts(model)
    a = config.adapter
    if a.name != "none":
        Adapter(model, lora_targets(config.model, a), a.rank, a.alpha, a.dropout)
    load = _load(config, model)
    parts = memory_parts(model, load)
    rewards, unknown = _reward_models(config, total)
    parts["reward models"] = rewards
    trained = parameter_counts(model)[1]
    return Estimate({k: v for k, v in parts.items() if v}, total, trained, unknown)


def free_bytes(config: Config) -> tuple[float | None, str]:
    """What is free where the run computes, and what that is; None where there is no such device here."""
    if config.trainer.accelerator in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            return None, "no GPU here"
        return float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    available = [int(line.split()[1]) * 1024.0 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    limits = [float(line) for line in _lines("/sys/fs/cgroup/memory.max") if line.strip().isdigit()]
    used = [float(line) for line in _lines("/sys/fs/cgroup/memory.current")]
    if limits and used:
        available.append(limits[0] - used[0])
    return (min(available) / _processes(config) if available else None), "main memory"


def suggestions(config: Config, free: float) -> tuple[list[str], float]:
    """Settings, added one after another until the estimate fits, and the last estimate in bytes."""
    is_gpu = config.trainer.accelerator in ("gpu", "cuda")
    changed, words, size = copy.deepcopy(config), [], float("inf")

    def micro_batch(c: Config) -> str:
        c.training.micro_batch_tokens = max(512, c.training.micro_batch_tokens // 8)
        return f"training.micro_batch_tokens={c.training.micro_batch_tokens}"

    def half(c: Config) -> str:
        c.model.dtype = "bfloat16"
        return "model.dtype=bfloat16"

    def lora(c: Config) -> str:
        c.adapter = copy.deepcopy(c.adapter)
        c.adapter.name = "lora"
        return "adapter=lora"

    def fewer_bits(bits: int) -> Callable[[Config], str]:
        def change(c: Config) -> str:
            c.adapter.name, c.adapter.bits = f"lora-{bits}bit", bits
            return f"adapter=lora-{bits}bit"

        return change

    steps = [micro_batch] if config.training.micro_batch_tokens > 512 else []
    steps += [lora] if config.adapter.name == "none" else []
    steps += [half] if config.model.dtype == "float32" and config.adapter.bits is None else []
    steps += [fewer_bits(bits) for bits in (8, 4) if is_gpu and (config.adapter.bits or 16) > bits]
    for step in steps:
        word = step(changed)
        words = [w for w in words if not (word.startswith("adapter=") and w.startswith("adapter="))] + [word]
        estimate = estimate_memory(changed)
        assert estimate is not None
        size = estimate.peak
        if size <= free:
            break
    return words, size


def _verdict(config: Config, estimate: Estimate, free: float | None) -> str:
    if free is None:
        return "Run the same command where the device is: it is then compared with what is free."
    if estimate.peak <= free:
        return f"It fits: about {estimate.peak / GIB:.1f} of {free / GIB:.1f} GiB free."
    said = f"It does not fit: about {estimate.peak / GIB:.1f} GiB, {free / GIB:.1f} GiB free."
    words, size = suggestions(config, free)
    if size <= free:
        return f"{said} About {size / GIB:.1f} GiB with: {' '.join(words)}"
    best = f" (about {size / GIB:.1f} GiB with {' '.join(words)})" if words else ""
    return f"{said} Choose a smaller model, or split it over GPUs: trainer=fsdp{best}."


def _skeleton(config: Config) -> PreTrainedModel | None:
    m = config.model
    if m.path is not None:
        return skeleton(m, Path(m.path)) if _is_model(m.path) else None
    folder = repositories.cached(m.id, m.revision) if m.weights == "pretrained" and m.id is not None else None
    if folder is None and m.architecture is None:
        return None
    is_testbed = config.data.domain == "factworld"
    if folder is None and "vocab_size" not in m.config and (is_testbed or m.tokenizer is not None):
        tokenizer = make_world(config).tokenizer() if is_testbed else read_tokenizer(tokenizer_source(m))
        grown = copy.deepcopy(m)
        grown.config = {"vocab_size": len(tokenizer), **m.config}
        return skeleton(grown, None)
    return skeleton(m, folder)


def _load(config: Config, model: PreTrainedModel) -> Load:
    t, trainer, is_adapted = config.training, config.trainer, config.adapter.name != "none"
    is_half = trainer.precision.endswith("16-true") or trainer.precision in ("bf16", "16")
    weight_bytes = 2 if is_half else _BYTES[config.model.dtype]
    processes = _processes(config)
    prompt, response = _prompt_tokens(config, model), config.rollout.sampling.max_new_tokens
    rows = min(t.mini_batch_size, max(1, t.micro_batch_tokens // (prompt + response)))
    is_sharded = trainer.strategy == "fsdp"
    return Load(
        weight_bytes=weight_bytes,
        trained_bytes=4 if is_adapted and not is_half else weight_bytes,
        bits=config.adapter.bits,
        has_reference_copy=not is_adapted,
        recomputes=trainer.activation_checkpointing,
        value_heads=make_solver(config).num_channels,
        rollout_rows=-(-t.batch_size // processes),
        prompt_tokens=prompt,
        response_tokens=response,
        micro_batch_rows=rows,
        shards=processes if is_sharded else 1,
        mixed="mixed" in trainer.precision,
    )


def _prompt_tokens(config: Config, model: PreTrainedModel) -> int:
    """The longest prompt: FactWorld's own, else what the data allows and the positions leave."""
    if config.data.domain == "factworld":
        world = make_world(config)
        texts = [prompt.text for prompt in world.prompts("train")]
        return max(len(ids) for ids in world.tokenizer()(texts)["input_ids"])
    room = (max_positions(model) or 2048) - config.rollout.sampling.max_new_tokens
    return min(config.data.max_prompt_tokens, room)


def _reward_models(config: Config, policy_parameters: int) -> tuple[float, list[str]]:
    """Bytes of the reward models on the policy's device, in float32, and those whose size is not known."""
    total, unknown = 0.0, []
    for name, objective in config.objectives.items():
        node = objective.scorers.get(config.data.domain, objective.scorers.get("any")) or {}
        if node.get("device") is not None:  # not the policy's
            continue
        if "program" in node and config.reward == "learned":
            total += policy_parameters * 4
        elif node.get("path") is not None or node.get("id") is not None:
            count = _classifier_parameters(node)
            if count is None:
                unknown.append(f"the reward model of {name}, {node.get('path') or node['id']}")
            total += (count or 0) * 4
    return total, unknown


def _classifier_parameters(node: dict[str, Any]) -> int | None:
    given = node.get("path")
    folder = Path(given) if given is not None else repositories.cached(node["id"], node.get("revision"))
    if folder is None or not (folder / "config.json").is_file():
        return node.get("parameters") if given is None else None
    with torch.device("meta"):
        settings = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return parameter_counts(AutoModelForSequenceClassification.from_config(settings))[0]


def _state(asset: Any, state: str) -> str:
    pickled = f" (pickled: {asset.pickle_hint})" if state == "pickled" or (asset.pickled and asset.pickle_hint) else ""
    if state in ("cached", "pickled"):
        return "cached" + (pickled if state == "pickled" else "")
    gate = " (gated: ask for access, then `hf auth login`)" if asset.gated else ""
    return f"{state}: {repositories.fetch_command(asset.repo_id, asset.revision, asset.kind)}{gate}{pickled}"


def _trainer(config: Config) -> str:
    t = config.trainer
    return f"{t.devices} × {t.accelerator}, {getattr(t, 'strategy', 'single')}, {t.precision}"


def _processes(config: Config) -> int:
    devices = config.trainer.devices  # -1: every GPU
    return devices if devices > 0 else max(1, torch.cuda.device_count())


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.2f} MiB"


def _is_model(path: str) -> bool:
    return any((Path(path) / name).is_file() for name in ("config.json", "adapter_config.json"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
