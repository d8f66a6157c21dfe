"""What a run needs and what is there: parameters, bytes per device, models and data. Nothing is loaded or fetched."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from pama_exp.assembly.assets import assets_of, check_named, states_of
from pama_exp.assembly.checks import check_inputs
from pama_exp.assembly.held_gradients import asks_for, held_gradients
from pama_exp.assembly.objective_plans import check_sources
from pama_exp.assembly.setup import Setup, build_method, resolve
from pama_exp.config.domains import scorer_node
from pama_exp.config.schema import Config
from pama_exp.data.tokens import encode
from pama_exp.hub import repositories
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.loading import max_positions
from pama_exp.policy.memory import Load, memory_parts, parameter_counts, peak
from pama_exp.supervised.start_model import StartModel, lora_targets
from pama_exp.tracking.console import note, table
from pama_exp.training.evaluation import EVALUATED_AT_ONCE

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_RUNTIME = 0.5 * 2**30  # the process with its libraries, or the CUDA context
_TABLES = 0.1 * 2**30  # tables of text and their libraries, in main memory
_WORD = 1250  # bytes of a tokenizer for each of its tokens
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
    states = states_of(assets)
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
    is_here = not config.trainer.uses_gpu or torch.cuda.is_available()
    sizes = sizes_of(resolve(config, is_here)) if set(states) <= {"cached"} else known_sizes(config, is_here)
    if sizes is None:
        note(f"The size of {config.model.id} is not known before its config.json is cached.")
        return
    estimate = estimate_memory(config, sizes)
    free, device = free_bytes(config)
    title = f"Memory per device: {config.model.name}, adapter={config.adapter.name}, {_trainer(config)}"
    lines = [(name, _size(size)) for name, size in estimate.parts.items()]
    lines += [("peak", _size(estimate.peak)), ("free", f"{_size(free)}, {device}" if free is not None else device)]
    table(title, ("what", "size"), lines)
    note(f"Parameters: {estimate.parameters:,}, of which trained: {estimate.trained:,}.")
    for what in estimate.unknown:
        note(f"Not counted: {what}.")
    note(_verdict(config, sizes, estimate, free))


def warn(setup: Setup) -> None:
    """One line before a run whose estimate exceeds what is free."""
    sizes = sizes_of(setup)
    estimate = estimate_memory(setup.config, sizes)
    free, _ = free_bytes(setup.config)
    if free is not None and estimate.peak > free:
        note(_verdict(setup.config, sizes, estimate, free))


@dataclass(frozen=True)
class Sizes:
    """What memory grows with, besides the settings.

    Attributes:
        skeleton: the model on the meta device, without adapter.
        lora_targets: the layers that an adapter would adapt; None for all linear ones.
        value_heads: one per reward channel.
        prompt_tokens: of the longest prompt.
        mean_prompt_tokens: of all; None where that is not known.
        gramian: what the solver asks for gradients of: parameters, hidden; None: it asks for none.
        sources: {objective: how it is scored in the data domain}.
    """

    skeleton: PreTrainedModel
    lora_targets: list[str] | None
    value_heads: int
    prompt_tokens: int
    sources: Mapping[str, Mapping[str, Any]]
    mean_prompt_tokens: float | None = None
    gramian: str | None = None


def sizes_of(setup: Setup) -> Sizes:
    """The sizes of a run whose models are all there."""
    skeleton, sources = setup.start.skeleton, {plan.name: plan.source for plan in setup.objectives}
    prompt = max(len(ids) for ids in encode(setup.start.tokenizer, setup.task.longest()))
    return Sizes(
        skeleton,
        setup.start.lora_targets,
        setup.solver.num_channels,
        prompt,
        sources,
        setup.task.mean_length(),
        asks_for(setup.solver, len(setup.names)),
    )


def known_sizes(config: Config, is_here: bool) -> Sizes | None:
    """The sizes that can be known while models are missing; None where the architecture is not known either.

    Raises:
        UserError: for whatever the run will refuse that can be known without them.
    """
    check_inputs(config)
    check_sources(config.objectives, config.data.domain)
    solver, _, _ = build_method(config, is_here)
    m = config.model
    cached = repositories.cached(m.id, m.revision) if m.weights == "pretrained" and m.id is not None else None
    folder = (Path(m.path) if _is_model(m.path) else None) if m.path is not None else cached
    if folder is None and (m.architecture is None or m.path is not None):
        return None
    skeleton = StartModel(m, config.adapter, folder).skeleton
    sources = {name: scorer_node(node.scorers, config.data.domain) for name, node in config.objectives.items()}
    targets = lora_targets(m, config.adapter)
    prompt, asked = _prompt_limit(config, skeleton), asks_for(solver, len(config.objectives))
    return Sizes(skeleton, targets, solver.num_channels, prompt, sources, gramian=asked)


def estimate_memory(config: Config, sizes: Sizes) -> Estimate:
    """Bytes per device."""
    total, _ = parameter_counts(sizes.skeleton)
    a, model = config.adapter, sizes.skeleton
    if a.name != "none":
        model = copy.deepcopy(model)
        Adapter(model, sizes.lora_targets, a.rank, a.alpha, a.dropout)
    trained = parameter_counts(model)[1]
    parts = memory_parts(model, _load(config, sizes, trained))
    rewards, unknown = _reward_models(config, sizes, total)
    parts["reward models"] = rewards
    if config.data.domain != "factworld" and not config.trainer.uses_gpu:
        parts["tokenizer and tables"] = _TABLES + _WORD * model.get_output_embeddings().weight.shape[0]
    return Estimate({k: v for k, v in parts.items() if v}, total, trained, unknown)


def free_bytes(config: Config) -> tuple[float | None, str]:
    """What is free where the run computes, and what that is; None where there is no such device here."""
    if config.trainer.uses_gpu:
        if not torch.cuda.is_available():
            return None, "no GPU here"
        return float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    available = [int(line.split()[1]) * 1024.0 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    limits = [float(line) for line in _lines("/sys/fs/cgroup/memory.max") if line.strip().isdigit()]
    used = [float(line) for line in _lines("/sys/fs/cgroup/memory.current")]
    if limits and used:
        available.append(limits[0] - used[0])
    return (min(available) / _processes(config) if available else None), "main memory"


def suggestions(config: Config, sizes: Sizes, free: float) -> tuple[list[str], float]:
    """Settings, added one after another until the estimate fits, and the last estimate in bytes."""
    is_gpu = config.trainer.uses_gpu
    changed, size = copy.deepcopy(config), float("inf")
    words: list[str] = []

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

    steps: list[Callable[[Config], str]] = [micro_batch] if config.training.micro_batch_tokens > 512 else []
    steps += [lora] if config.adapter.name == "none" else []
    steps += [half] if config.model.dtype == "float32" and config.adapter.bits is None else []
    steps += [fewer_bits(bits) for bits in (8, 4) if is_gpu and (config.adapter.bits or 16) > bits]
    for step in steps:
        word = step(changed)
        words = [w for w in words if not (word.startswith("adapter=") and w.startswith("adapter="))] + [word]
        size = estimate_memory(changed, sizes).peak
        if size <= free:
            break
    return words, size


def _verdict(config: Config, sizes: Sizes, estimate: Estimate, free: float | None) -> str:
    if free is None:
        return "Run the same command where the device is: it is then compared with what is free."
    if estimate.peak <= free:
        return f"It fits: about {estimate.peak / GIB:.1f} of {free / GIB:.1f} GiB free."
    said = f"It does not fit: about {estimate.peak / GIB:.1f} GiB, {free / GIB:.1f} GiB free."
    words, size = suggestions(config, sizes, free)
    if size <= free:
        return f"{said} About {size / GIB:.1f} GiB with: {' '.join(words)}"
    best = f" (about {size / GIB:.1f} GiB with {' '.join(words)})" if words else ""
    return f"{said} Choose a smaller model, or split it over GPUs: trainer=fsdp{best}."


def _load(config: Config, sizes: Sizes, trained: int) -> Load:
    t, trainer, is_adapted = config.training, config.trainer, config.adapter.name != "none"
    is_half = trainer.half_type is not None
    weight_bytes = 2 if is_half else _BYTES[config.model.dtype]
    processes = _processes(config)
    prompt, response = sizes.prompt_tokens, config.rollout.sampling.max_new_tokens
    rows = min(t.mini_batch_size, max(1, t.micro_batch_tokens // (prompt + response)))
    is_sharded = trainer.strategy == "fsdp"
    trained_bytes = 4 if is_adapted and not is_half else weight_bytes
    mean, (compared, watched) = sizes.mean_prompt_tokens, held_gradients(config, sizes.gramian, trained)
    return Load(
        weight_bytes=weight_bytes,
        trained_bytes=trained_bytes,
        moment_bytes=4,
        master_bytes=4 if trained_bytes < 4 else 0,
        packed_tokens=None if mean is None else round(rows * (mean + response)),
        solver_gradients=compared,
        watched_gradients=watched,
        bits=config.adapter.bits,
        has_reference_copy=not is_adapted,
        recomputes=trainer.activation_checkpointing,
        value_heads=sizes.value_heads,
        rollout_rows=-(-max(t.batch_size, min(config.data.evaluation_prompts, EVALUATED_AT_ONCE)) // processes),
        prompt_tokens=prompt,
        response_tokens=response,
        micro_batch_rows=rows,
        shards=processes if is_sharded else 1,
        mixed="mixed" in trainer.precision,
    )


def _prompt_limit(config: Config, model: PreTrainedModel) -> int:
    """What the data allows and the model's positions leave."""
    left = (max_positions(model) or 2048) - config.rollout.sampling.max_new_tokens
    return min(config.data.max_prompt_tokens, left)


def _reward_models(config: Config, sizes: Sizes, policy_parameters: int) -> tuple[float, list[str]]:
    """Bytes of the reward models on the policy's device, in float32, and those whose size is not known."""
    total, unknown = 0.0, []
    for name, node in sizes.sources.items():
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


def _classifier_parameters(node: Mapping[str, Any]) -> int | None:
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
    return f"{t.devices} × {t.accelerator}, {t.strategy}, {t.precision}"


def _processes(config: Config) -> int:
    devices = config.trainer.devices  # -1: every GPU
    return devices if devices > 0 else max(1, torch.cuda.device_count())


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.2f} MiB"


def _is_model(path: str) -> bool:
    return any(os.path.isfile(Path(path) / name) for name in ("config.json", "adapter_config.json"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.isfile(path) else []
