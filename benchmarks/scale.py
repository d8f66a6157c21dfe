"""What a step would take, in seconds and bytes, from a model's shape, a device's rates and the strategy.

    python benchmarks/scale.py                  # the tables of docs/scaling.md
    python benchmarks/scale.py check            # the same prediction for this processor, against runs of three sizes

A phase takes its floor (operations or bytes, whichever take longer; machine.py) divided by the share of the floor that
the phase was measured to reach, and the strategy's traffic over the links comes on top. Rates of GPUs are their makers'
figures; the shares are those measured on a processor (results/step-*.json). So the tables say where time and memory go
and how they grow, not what a clock will show; `check` measures the error where there is a clock.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import torch
from torch import distributed as dist
from torch import multiprocessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pama_exp.policy.memory import Load, cache_bytes_per_token, memory_parts, parameter_counts, peak

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "scaling.md"
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Rates of one device: operations and bytes a second, bytes of memory, bytes a second to the others."""

    name: str
    matmul: float
    copy: float
    memory: float
    link: float


@dataclass(frozen=True)
class Work:
    """One step: responses to prompts, learned once, with this many objectives."""

    responses: int = 512
    group: int = 8
    prompt: int = 128
    response: int = 256
    epochs: int = 1
    micro_batch_tokens: int = 16384
    objectives: int = 3


# The makers' figures: dense bf16 products, memory's bandwidth, and what one GPU sends to the others of its node.
DEVICES = {
    "A100-80GB": Device("A100-80GB", 312e12, 2.0e12, 80e9, 300e9),
    "H100-80GB": Device("H100-80GB", 989e12, 3.35e12, 80e9, 450e9),
    "H200-141GB": Device("H200-141GB", 989e12, 4.8e12, 141e9, 450e9),
}
LLAMA = {"tie_word_embeddings": False, "max_position_embeddings": 4096}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "125M (OPT)": ("opt", {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}),
    "1.3B (OPT)": ("opt", {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}),
    "7B (Llama 2)": ("llama", {"vocab_size": 32000, **LLAMA}),
    "13B (Llama 2)": (
        "llama",
        {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40, **LLAMA},
    ),
    "70B (Llama 2)": (
        "llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            **LLAMA,
        },
    ),
}


def shares() -> dict[str, float]:
    """{phase: the share of its floor that it reaches}, the mean of what step.py measured."""
    files = sorted(machine.RESULTS.glob("step-*.json"))
    measured = [json.loads(path.read_text())["share_of_floor"] for path in files]
    return {phase: statistics.mean(each[phase] for each in measured) for phase in ("generate", "reference", "update")}


def skeleton(architecture: str, settings: dict[str, Any]) -> PreTrainedModel:
    """The model on the meta device: shapes without memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings))


@dataclass(frozen=True)
class Plan:
    """A model, what is trained of it, and how the devices share it.

    Attributes:
        weight_bytes: of each weight; what is trained has its master copy, gradient and moments in float32.
        lora_rank: of adapters in every linear layer of the trunk; None: all weights are trained.
        strategy: ddp, a replica on each device, or fsdp, shards (FSDP2).
    """

    model: PreTrainedModel
    devices: int
    strategy: str
    lora_rank: int | None = None
    weight_bytes: int = 2

    @property
    def total(self) -> int:
        """Parameters of the model."""
        return parameter_counts(self.model)[0]

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        if self.lora_rank is None:
            return self.total
        linear = [m for m in self.model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        return sum(self.lora_rank * (m.in_features + m.out_features) for m in linear)

    @property
    def shards(self) -> int:
        """Devices that split the weights."""
        return self.devices if self.strategy == "fsdp" else 1


def step_seconds(plan: Plan, work: Work, device: Device, solver: str, reach: dict[str, float]) -> dict[str, float]:
    """Seconds of a step by phase, with PAMA, or MGDA over all trained parameters."""
    config, total, trained = plan.model.config, plan.total, plan.trained
    head = config.vocab_size * config.hidden_size
    trunk = total - (head if config.tie_word_embeddings else 2 * head)
    rows = work.responses // plan.devices
    need = machine.floor(
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
        max(1, rows // work.group),
        rows,
        work.prompt,
        work.response,
        bytes_each=plan.weight_bytes,
        trunk=trunk,
        kv_width=int(cache_bytes_per_token(plan.model, 1) / 2 / config.num_hidden_layers),
    )
    if plan.lora_rank is not None:  # no gradients of frozen weights: two thirds of the products
        need["update"]["operations"] *= 2 / 3
        need["update"]["bytes"] -= 10 * 4 * (trunk + head - trained)
    seconds = {
        phase: machine.floor_seconds(each, device.matmul, device.copy) / reach[phase] for phase, each in need.items()
    }
    gradients = work.objectives if solver == "mgda" else 0
    pairs = gradients * work.objectives * 2 * trained * 4 / plan.shards  # bytes read by the Gramian
    numbers = work.objectives * work.responses * work.response
    seconds["solve"] = (20 * 4 * numbers + pairs) / device.copy + gradients * seconds["update"] * 2 / 3
    seconds["update"] *= work.epochs
    seconds["links"] = _traffic(plan, work, gradients) / device.link
    return seconds


def device_bytes(plan: Plan, work: Work, solver: str = "pama") -> float:
    """The most bytes that a device holds at once, reward models left out."""
    full = plan.lora_rank is None
    load = Load(
        weight_bytes=plan.weight_bytes,
        trained_bytes=plan.weight_bytes,
        bits=None,
        has_reference_copy=full,
        recomputes=True,
        value_heads=work.objectives,
        rollout_rows=work.responses // plan.devices,
        prompt_tokens=work.prompt,
        response_tokens=work.response,
        micro_batch_rows=max(1, work.micro_batch_tokens // (work.prompt + work.response)),
        shards=plan.shards,
        mixed=False,
        master_bytes=4 if plan.weight_bytes == 2 else 0,
        moment_bytes=4,
        solver_gradients=work.objectives if solver == "mgda" else 0,
    )
    parts = memory_parts(plan.model, load)
    del parts["saved policy"]  # gathered in main memory
    if not full:  # the adapters' alone
        shared = plan.trained * 4 / plan.shards
        parts |= {"gradients": shared, "optimiser": 2 * shared, "gradients compared": 0.0}
    if plan.strategy == "fsdp":  # every process holds the whole policy while it generates
        parts["key-value cache"] += plan.total * plan.weight_bytes
    return peak(parts)


def _traffic(plan: Plan, work: Work, gradients: int) -> float:
    """Bytes that each device sends in a step: a ring's share of what is gathered and summed."""
    around = (plan.devices - 1) / plan.devices
    if plan.strategy == "ddp":
        return around * 2 * 4 * plan.trained * (work.epochs + gradients)
    tokens = work.responses // plan.devices * (work.prompt + work.response)
    passes = -(-tokens // work.micro_batch_tokens) * (work.epochs + gradients)  # each forward and backward
    gathered = (2 * passes + 2) * plan.weight_bytes * plan.total  # the reference and generation once each
    return around * (gathered + 4 * plan.trained * passes)


def tables() -> str:
    """The two tables of docs/scaling.md, in Markdown."""
    reach = shares()
    lines = [
        f"| model | trained | strategy | GiB a device | {' | '.join(DEVICES)} | MGDA ÷ PAMA, N = 3 | N = 8 |",
        "| --- | --- | --- | --- |" + " --- |" * (len(DEVICES) + 2),
    ]
    phases = ["generate", "reference", "update", "solve", "links"]
    shown = [f"| model | {' | '.join(phases)} |", "| --- |" + " --- |" * len(phases)]
    for name, (architecture, settings) in SHAPES.items():
        model = skeleton(architecture, settings)
        for rank in (None, 16):
            for strategy in ("ddp", "fsdp"):
                lines += _row(name, Plan(model, 8, strategy, rank), reach)
        seconds = step_seconds(Plan(model, 8, "fsdp"), Work(), DEVICES["H100-80GB"], "pama", reach)
        step = sum(seconds.values())
        shown.append(f"| {name} | {' | '.join(f'{seconds[phase] / step:.2%}' for phase in phases)} |")
    middle = "Where a step's time goes (eight H100, FSDP2, trained in full, PAMA):"
    return "\n".join([*lines, "", middle, "", *shown])


def _row(name: str, plan: Plan, reach: dict[str, float]) -> list[str]:
    """One line, or none where replicas fit no device."""
    held = device_bytes(plan, Work())
    fits = {device.name: held < 0.95 * device.memory for device in DEVICES.values()}
    if plan.strategy == "ddp" and not any(fits.values()):
        return []
    cells = [
        f"{sum(step_seconds(plan, Work(), device, 'pama', reach).values()):.1f} s" if fits[device.name] else "too large"
        for device in DEVICES.values()
    ]
    for objectives in (3, 8):
        work = replace(Work(), objectives=objectives)
        mgda, pama = (
            sum(step_seconds(plan, work, DEVICES["H100-80GB"], solver, reach).values()) for solver in ("mgda", "pama")
        )
        cells.append(f"{mgda / pama:.1f} ×")
    trained = "all" if plan.lora_rank is None else f"LoRA {plan.lora_rank}"
    return [f"| {name} | {trained} | {plan.strategy} | {held / GIB:.0f} | {' | '.join(cells)} |"]


def publish() -> None:
    """Rewrite the part of docs/scaling.md between its marks."""
    text = DOCUMENT.read_text()
    before, rest = text.split("<!-- scale:tables -->")
    _, after = rest.split("<!-- /scale:tables -->")
    DOCUMENT.write_text(f"{before}<!-- scale:tables -->\n{tables()}\n<!-- /scale:tables -->{after}")
    print(tables())


CHECKED = {"0.8M": (128, 4), "4.7M": (256, 6), "12.6M": (512, 4)}  # width and layers


def check() -> None:
    """Predicted and measured seconds of a step on this processor: three sizes, one process and two."""
    rows = []
    rates = {1: _rates(os.cpu_count() or 1), 2: _rates(max(1, (os.cpu_count() or 1) // 2))}
    link = _link_rate()
    for name, (width, layers) in CHECKED.items():
        for processes in (1, 2):
            measured = _measure(width, layers, processes)
            matmul, copy = rates[processes]
            device = Device("this processor", matmul, copy, 0.0, link)
            settings = {
                "hidden_size": width,
                "word_embed_proj_dim": width,
                "ffn_dim": 4 * width,
                "num_hidden_layers": layers,
                "num_attention_heads": width // 32,
                "vocab_size": measured["vocabulary"],
            }
            work = Work(64, 1, measured["prompt"], measured["response"], 2, 16384, 2)
            model = skeleton("opt", settings)
            plan = Plan(model, processes, "ddp", weight_bytes=4)
            predicted = sum(step_seconds(plan, work, device, "pama", shares()).values())
            rows.append({"size": name, "processes": processes, "predicted": predicted, **measured})
            print(f"{name}, {processes} processes: predicted {predicted:.3f} s, measured {measured['step']:.3f} s")
    result = {
        "command": "python benchmarks/scale.py check",
        "machine": machine.describe(),
        "rates": rates,
        "link": link,
    }
    (machine.RESULTS / "scale-check.json").write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


def _rates(threads: int) -> tuple[float, float]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rates = machine.matmul_rate(), machine.copy_rate()
    torch.set_num_threads(before)
    return rates


def _measure(width: int, layers: int, processes: int) -> dict[str, Any]:
    """Medians of a run's steps, the first two left out."""
    with tempfile.TemporaryDirectory() as folder:
        shape = f"hidden_size: {width}, word_embed_proj_dim: {width}, ffn_dim: {4 * width}, num_hidden_layers: {layers}"
        words = [
            "model=tiny",
            f"model.config={{{shape}, num_attention_heads: {width // 32}, max_position_embeddings: 96}}",
            "reward=gold",
            "logger=none",
            "sft.steps=1",
            "training.steps=10",
            "training.evaluate_every=0",
            "training.diagnostics_every=0",
            "training.checkpoint_every=0",
            f"output={folder}/run",
            f"cache_dir={folder}/cache",
        ]
        if processes > 1:
            words += [
                "trainer=ddp",
                "trainer.accelerator=cpu",
                "trainer.precision=32-true",
                f"trainer.devices={processes}",
            ]
        subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        steps = [row for row in map(json.loads, lines) if "time/step" in row][2:]
        vocabulary = json.loads((Path(folder) / "run" / "policy" / "config.json").read_text())["vocab_size"]
    return {
        "step": statistics.median(row["time/step"] for row in steps),
        "response": round(statistics.median(row["response/length"] for row in steps)),
        "prompt": 10,
        "vocabulary": vocabulary,
    }


def _link_rate() -> float:
    """Bytes a second that each of two processes sends in a sum over both (gloo)."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_reduce, (folder,), nprocs=2)
        return float((Path(folder) / "rate").read_text())


def _reduce(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    tensor = torch.zeros(2**22)
    found = []
    for _ in range(8):
        started = time.perf_counter()
        dist.all_reduce(tensor)
        found.append(time.perf_counter() - started)
    if rank == 0:
        (Path(folder) / "rate").write_text(str(tensor.numel() * 4 / min(found)))
    dist.destroy_process_group()


if __name__ == "__main__":
    check() if sys.argv[1:] == ["check"] else publish()
