"""One step of alignment against TRL's GRPO on the same work, phase by phase, and against what the machine allows.

    python benchmarks/step.py [small|opt-125m|smollm2|gemma3] [rounds] [trl-float32|trl-defaults ...] [weights=FOLDER]

Every contender trains the same architecture from the same weights, random ones or those of a folder, answers the same
prompts (eight responses to each), scores them by the same two functions and makes one optimiser step on the clipped
surrogate with a KL term against a frozen reference. Every response has exactly 48 tokens: the end token lies outside
the model's vocabulary. Contenders take turns, step by step, and ratios are taken within a turn. Both peers take part
unless some are named: on a processor that has to emulate bf16, a step of TRL's defaults takes minutes.

Writes benchmarks/results/step-<size>.json and step-<size>.png; with a model's own weights, step-<size>-weights.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import machine
import torch
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from turns import Contender, median_ratio, medians, report, take_turns, wait_for_turn

PROMPT, RESPONSE, GROUP = 32, 48, 8
SIZES = {
    "small": {"responses": 64, "width": 256, "layers": 4, "heads": 4, "vocabulary": 2048},
    "opt-125m": {"responses": 16, "width": 768, "layers": 12, "heads": 12, "vocabulary": 50272},
    "smollm2": {"responses": 32, "width": 576, "layers": 30, "heads": 9, "vocabulary": 49152},
    "gemma3": {"responses": 32, "width": 640, "layers": 18, "heads": 4, "vocabulary": 262144},
}
# What else the shapes of SmolLM2-135M and Gemma 3 270M consist of; the others are OPT's.
SHAPES = {
    "smollm2": {
        "model_type": "llama",
        "intermediate_size": 1536,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "intermediate_size": 2048,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    },
}
CONTENDERS = {
    "ours": "pama-exp, float32",
    "trl-float32": "TRL, float32, no checkpointing",
    "trl-defaults": "TRL, its defaults (bf16 autocast, checkpointing)",
}
PHASES = ("generate", "reference", "update", "other")


def word_share(prompts, completions, **_):
    """The share of words of odd number."""
    return [statistics.fmean(int(word[1:]) % 2 for word in text.split()) for text in completions]


def distinct_share(prompts, completions, **_):
    """The share of words that are said once."""
    return [len(set(text.split())) / len(text.split()) for text in completions]


def make_tokenizer(vocabulary: int, folder: Path) -> None:
    """One token per word, and an end token that a model with this vocabulary cannot say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", *(f"w{i}" for i in range(1, vocabulary)), "<eos>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def config_of(size: str) -> PretrainedConfig:
    """The shape, with an end token that no model of it can say."""
    s = SIZES[size]
    shared = {
        "vocab_size": s["vocabulary"],
        "hidden_size": s["width"],
        "num_hidden_layers": s["layers"],
        "num_attention_heads": s["heads"],
        "max_position_embeddings": 128,
        "attention_dropout": 0.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": s["vocabulary"],
    }
    if size in SHAPES:
        return AutoConfig.for_model(**SHAPES[size], **shared)
    return AutoConfig.for_model("opt", word_embed_proj_dim=s["width"], ffn_dim=4 * s["width"], dropout=0.0, **shared)


def make_model(size: str, folder: Path, weights: str | None) -> None:
    """A model of the shape and the tokenizer: with the weights in a folder, or random ones."""
    make_tokenizer(SIZES[size]["vocabulary"], folder)
    torch.manual_seed(0)
    if weights is None:
        model = AutoModelForCausalLM.from_config(config_of(size), dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
        wanted = config_of(size)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(model.config, name) != getattr(wanted, name):
                raise SystemExit(f"{weights} is not of the shape {size}: {name} is {getattr(model.config, name)}.")
        for config in (model.config, model.generation_config):
            config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, wanted.eos_token_id
    model.save_pretrained(folder)


def prompts_of(vocabulary: int, count: int, length: int = PROMPT) -> list[str]:
    ids = torch.randint(1, vocabulary, (count, length), generator=torch.Generator().manual_seed(1))
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]


def run_ours(size: str, folder: Path, steps: int) -> None:
    from lightning import Callback, Trainer
    from torch.utils.data import DataLoader

    from pama_exp.data.prompts import PromptStream
    from pama_exp.parallel.products import products
    from pama_exp.policy.loading import load_model, load_tokenizer
    from pama_exp.policy.policy import Policy, freeze
    from pama_exp.rewards.function import FunctionScorer
    from pama_exp.rewards.objective import Objective
    from pama_exp.rl.estimators import Group
    from pama_exp.rl.kl import FixedKL
    from pama_exp.rollout.engine import Sampling
    from pama_exp.rollout.fast import FastEngine
    from pama_exp.solvers.pama import PAMA
    from pama_exp.training.alignment import Alignment
    from pama_exp.training.optimizer import OptimizerSettings
    from pama_exp.training.update import UpdateSettings

    responses = SIZES[size]["responses"]
    tokenizer = load_tokenizer(folder)
    policy = Policy(load_model(folder), num_values=2)
    module = Alignment(
        policy=policy,
        reference=freeze(load_model(folder)),
        objectives=[Objective(f.__name__, FunctionScorer(f"step:{f.__name__}")) for f in (word_share, distinct_share)],
        solver=PAMA([0.5, 0.5], noon=False, granularity="sequence"),
        estimator=Group("standardise", group_size=GROUP),
        engine=FastEngine(policy.model, tokenizer),
        sampling=Sampling(RESPONSE),
        prompts=PromptStream(
            prompts_of(SIZES[size]["vocabulary"], 256), tokenizer, responses // GROUP, seed=0, group_size=GROUP
        ),
        kl=FixedKL(0.04),
        update=UpdateSettings(
            epochs=1,
            mini_batch_size=responses,
            micro_batch_tokens=10**9,
            clip=0.2,
            value_clip=None,
            value_coefficient=0.0,
            entropy_coefficient=0.0,
            max_grad_norm=1.0,
            target_kl=None,
            kl_in_loss=True,
            kl_estimator="k3",
            temperature=1.0,
        ),
        optimizer=OptimizerSettings(1e-6, 1e-6, "constant", 0, 0.0, steps),
        diagnostics_every=0,
        seed=0,
    )

    class Turns(Callback):
        def on_train_batch_start(self, *_):
            wait_for_turn()
            self.started = time.perf_counter()

        def on_train_batch_end(self, trainer, pl_module, *_):
            whole, m = time.perf_counter() - self.started, pl_module.metrics
            assert m["response/length"] == RESPONSE
            phases = {"generate": m["time/generate"], "reference": m["time/evaluate"], "update": m["time/update"]}
            report({**phases, "other": whole - sum(phases.values()), "step": whole})

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Turns()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with products():
        trainer.fit(module, DataLoader(range(steps), batch_size=None))


def run_trl(size: str, folder: Path, steps: int, defaults: bool) -> None:
    sys.modules["trackio"] = None  # TRL imports it where it finds it; nothing is reported here
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    phases: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        phases[phase] = phases.get(phase, 0.0) + time.perf_counter() - started

    class Timed(GRPOTrainer):
        scoring = False

        def _generate_and_score_completions(self, inputs):
            self.scoring = True
            with timed("rollout"):
                out = super()._generate_and_score_completions(inputs)
            self.scoring = False
            assert bool((out["completion_mask"].sum(1) == RESPONSE).all())
            return out

        def _generate(self, *args, **kwargs):
            with timed("generate"):
                return super()._generate(*args, **kwargs)

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            if not self.scoring:
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)
            with timed("reference"):
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    class Turns(TrainerCallback):
        def on_step_begin(self, *_, **__):
            wait_for_turn()
            phases.clear()
            self.started = time.perf_counter()

        def on_step_end(self, *_, **__):
            whole = time.perf_counter() - self.started
            shown = {name: phases[name] for name in ("generate", "reference")}
            other = phases["rollout"] - sum(shown.values())
            report({**shown, "update": whole - phases["rollout"], "other": other, "step": whole})

    with tempfile.TemporaryDirectory() as output:
        plain = {} if defaults else {"bf16": False, "gradient_checkpointing": False}
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(folder),
            processing_class=AutoTokenizer.from_pretrained(folder),
            reward_funcs=[word_share, distinct_share],
            train_dataset=Dataset.from_dict({"prompt": prompts_of(SIZES[size]["vocabulary"], 256)}),
            args=GRPOConfig(
                output_dir=output,
                use_cpu=True,
                per_device_train_batch_size=SIZES[size]["responses"],
                num_generations=GROUP,
                max_completion_length=RESPONSE,
                beta=0.04,
                max_steps=steps,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **plain,
            ),
            callbacks=[Turns()],
        )
        trainer.train()


def summary_of(size: str, rows: dict[str, list[dict[str, float]]], command: str) -> dict[str, object]:
    s = SIZES[size]
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config_of(size)).parameters())
    need = machine.floor(
        s["layers"],
        s["width"],
        s["vocabulary"],
        s["responses"] // GROUP,
        s["responses"],
        PROMPT,
        RESPONSE,
        trunk=weights - s["vocabulary"] * s["width"],
        kv_width=SHAPES[size]["num_key_value_heads"] * SHAPES[size]["head_dim"] if size in SHAPES else None,
    )
    matmul, copy = machine.matmul_rate(), machine.copy_rate()
    floors = {phase: machine.floor_seconds(need[phase], matmul, copy) for phase in need}
    floors["step"] = sum(floors.values())
    found = {name: medians(steps) for name, steps in rows.items()}
    return {
        "command": command,
        "machine": machine.describe(),
        "size": s | {"prompt": PROMPT, "response": RESPONSE, "group": GROUP},
        "matmul_operations_per_second": matmul,
        "copy_bytes_per_second": copy,
        "needs": need,
        "floor_seconds": floors,
        "share_of_floor": {phase: floors[phase] / found["ours"][phase] for phase in floors},
        "seconds": found,
        "times_faster": {name: median_ratio(steps, rows["ours"]) for name, steps in rows.items() if name != "ours"},
        "rounds": rows,
    }


def show(summary: dict) -> None:
    names = [*PHASES, "step"]
    print(f"{'':14s}" + "".join(f"{name:>11s}" for name in names) + "    peak memory")
    for name, found in summary["seconds"].items():
        cells = "".join(f"{found[phase]:9.3f} s" for phase in names)
        print(f"{name:14s}{cells}{found['peak_memory_bytes'] / 2**20:11.0f} MiB")
    floors, shares = summary["floor_seconds"], summary["share_of_floor"]
    print(f"{'floor':14s}" + "".join(f"{floors[p]:9.3f} s" if p in floors else " " * 11 for p in names))
    print(f"{'share reached':14s}" + "".join(f"{shares[p]:10.0%} " if p in shares else " " * 11 for p in names))
    for name, ratio in summary["times_faster"].items():
        print(f"{ratio:.2f}x as fast as {CONTENDERS[name]}")


def draw(size: str, summary: dict) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    bars = {CONTENDERS[name]: found for name, found in summary["seconds"].items()}
    bars["floor of this machine"] = {"other": 0.0, **summary["floor_seconds"]}
    for place, found in enumerate(bars.values()):
        left = 0.0
        for phase, color in zip(PHASES, machine.COLORS, strict=False):
            axes.barh(place, found[phase], left=left, color=color, label=phase if place == 0 else None)
            left += found[phase]
    axes.set_yticks(range(len(bars)), bars)
    axes.invert_yaxis()
    axes.set(xlabel="seconds a step (medians)", title=f"One step, {size}, {summary['machine']['threads']} CPU threads")
    figure.legend(frameon=False, loc="outside lower center", ncols=len(PHASES))
    return figure


def main(size: str = "small", rounds: str = "7", *words: str) -> None:
    weights = next((word.partition("=")[2] for word in words if word.startswith("weights=")), None)
    peers = [word for word in words if not word.startswith("weights=")]
    if size not in SIZES or not rounds.isdecimal() or not CONTENDERS.keys() >= set(peers):
        raise SystemExit(__doc__.split("\n\n")[1].strip())
    names = [n for n in CONTENDERS if n == "ours" or (find_spec("trl") is not None and n in (peers or CONTENDERS))]
    with tempfile.TemporaryDirectory() as folder:
        make_model(size, Path(folder), weights)
        steps = int(rounds) + 2
        contenders = {name: Contender(__file__, ["--contender", name, size, folder, str(steps)]) for name in names}
        rows = take_turns(contenders, int(rounds))
    said = [*peers, *(["weights=FOLDER"] if weights is not None else [])]
    summary = summary_of(size, rows, " ".join(["python benchmarks/step.py", size, rounds, *said]))
    show(summary)
    machine.save(f"step-{size}" + "-weights" * (weights is not None), summary, draw(size, summary))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1:2] == ["--contender"]:
        _, _, name, size, folder, steps = sys.argv
        if name == "ours":
            run_ours(size, Path(folder), int(steps))
        else:
            run_trl(size, Path(folder), int(steps), defaults=name == "trl-defaults")
    else:
        main(*sys.argv[1:])
