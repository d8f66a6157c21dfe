"""How much of the machine's measured matmul and copy rates decoding and the update reach.

    python benchmarks/limits.py [cpu|cuda] [size ...]

On a processor in float32: the two sizes of step.py, 64 and 16 responses of 48 tokens to prompts of 32, eight to a
prompt. On a GPU in bfloat16: opt-1.3b trained in full, without and with CUDA graphs in decoding, and a 7B Llama shape
with LoRA (needs peft), 64 responses of 256 tokens to prompts of 128. Weights are random and the end token cannot be
said. The update is one forward and backward pass over all responses and AdamW. Writes
benchmarks/results/limits-<device>.json and .png.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import machine
import step as step_benchmark
import torch
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoModelForCausalLM

from pama_exp.data.prompts import PromptStream
from pama_exp.parallel.products import products
from pama_exp.policy.loading import load_tokenizer
from pama_exp.policy.policy import Policy, select, trim
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine
from pama_exp.training.update import parts_of, trainable


@dataclass(frozen=True)
class Size:
    """A model's shape and the work given to it."""

    architecture: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    responses: int
    prompt: int
    response: int
    lora: bool = False
    graphs: bool = False

    def config(self) -> dict[str, int | bool]:
        shared = {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
        if self.architecture == "opt":
            return {**shared, "ffn_dim": 4 * self.width, "word_embed_proj_dim": self.width, "dropout": 0.0}
        return {**shared, "intermediate_size": 11008}


SIZES = {
    "cpu": {
        "small": Size("opt", 4, 256, 4, 2048, 64, 32, 48),
        "opt-125m": Size("opt", 12, 768, 12, 50272, 16, 32, 48),
    },
    "cuda": {
        "opt-1.3b": Size("opt", 24, 2048, 32, 50272, 64, 128, 256),
        "opt-1.3b-graphs": Size("opt", 24, 2048, 32, 50272, 64, 128, 256, graphs=True),
        "llama-7b-lora": Size("llama", 32, 4096, 32, 32000, 64, 128, 256, lora=True),
    },
}


def measure(name: str, size: Size, device: str, matmul: float, copy: float) -> dict[str, object]:
    group, dtype = step_benchmark.GROUP, torch.float32 if device == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        step_benchmark.make_tokenizer(size.vocabulary, Path(folder))
        tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(size.architecture, **size.config()), dtype=dtype
        ).eval()
    policy, engine = Policy(model, 2), FastEngine(model, tokenizer, graphs=size.graphs)
    if size.lora:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=64, lora_alpha=128, target_modules=["q_proj", "v_proj"]), model)
        model.requires_grad_(False)
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in parameter_name)
    texts = step_benchmark.prompts_of(size.vocabulary, size.responses // group, size.prompt)
    prompts = PromptStream(texts, tokenizer, len(texts), seed=0, group_size=group).batch(0)
    optimizer = torch.optim.AdamW(trainable(policy.model), lr=1e-9, fused=True)
    rollout = engine.generate(prompts, Sampling(size.response), 0)
    parts = parts_of(rollout, 16384)

    def update() -> None:
        for part in parts:
            policy.score_rollout(trim(select(rollout, part))).log_probs.mean().backward()
        torch.nn.utils.clip_grad_norm_(trainable(policy.model), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    spent = {
        "generate": machine.seconds(lambda: engine.generate(prompts, Sampling(size.response), 0), device, 3),
        "update": machine.seconds(update, device, 3),
    }
    need = machine.floor(
        size.layers, size.width, size.vocabulary, len(texts), size.responses, size.prompt, size.response, dtype.itemsize
    )
    floors = {phase: machine.floor_seconds(need[phase], matmul, copy) for phase in spent}
    tokens = size.responses * size.response
    found = {
        "size": name,
        "seconds": spent,
        "tokens_per_second": {phase: tokens / spent[phase] for phase in spent},
        "operations_per_second": {phase: need[phase]["operations"] / spent[phase] for phase in spent},
        "bytes_per_second": {phase: need[phase]["bytes"] / spent[phase] for phase in spent},
        "floor_seconds": floors,
        "share_of_floor": {phase: floors[phase] / spent[phase] for phase in spent},
    }
    for phase in spent:
        print(
            f"{name:14s} {phase:9s} {spent[phase]:8.3f} s  {tokens / spent[phase]:9.0f} tokens/s  "
            f"floor {floors[phase]:.3f} s  share {found['share_of_floor'][phase]:.0%}",
            flush=True,
        )
    return found


def main(device: str = "cpu", *names: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU here.")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    matmul, copy = machine.matmul_rate(dtype, device), machine.copy_rate(device)
    print(f"matmul {matmul / 1e9:.0f} Gop/s, copy {copy / 1e9:.1f} GB/s (read and written)")
    sizes = {name: size for name, size in SIZES[device].items() if not names or name in names}
    rows = [measure(name, size, device, matmul, copy) for name, size in sizes.items()]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for place, (phase, color) in enumerate(zip(("generate", "update"), machine.COLORS, strict=False)):
        shares = [row["share_of_floor"][phase] for row in rows]
        axes.bar([i + 0.35 * (place - 0.5) for i in range(len(rows))], shares, 0.35, color=color, label=phase)
    axes.set_xticks(range(len(rows)), [row["size"] for row in rows])
    axes.set(ylabel="floor / time", ylim=(0, 1), title=f"Share of the measured limit, {device}")
    axes.legend(frameon=False)
    data = {
        "command": " ".join(["python benchmarks/limits.py", device, *names]),
        "machine": machine.describe(device),
        "matmul_operations_per_second": matmul,
        "copy_bytes_per_second": copy,
        "rows": rows,
    }
    machine.save(f"limits-{device}", data, figure)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with products():
        main(*sys.argv[1:])
