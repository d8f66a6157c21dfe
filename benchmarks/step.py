"""One step of alignment against TRL's GRPO on the same work, phase by phase.

    python benchmarks/step.py [small|opt-125m] [rounds]

Both sides train the same architecture from the same random weights, answer the same prompts (eight responses to each),
score them by the same two functions and make one optimiser step on the clipped surrogate with a KL term against a frozen
reference. Every response has exactly 48 tokens: the end token lies outside the model's vocabulary. Each contender is a
process of its own, running its own training loop; they take turns, step by step, and what is compared are the steps of a turn.

Writes benchmarks/results/step-<size>.json and step-<size>.png.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
PROMPT, RESPONSE, GROUP = 32, 48, 8
SIZES = {
    "small": {"responses": 64, "width": 256, "layers": 4, "heads": 4, "vocabulary": 2048},
    "opt-125m": {"responses": 16, "width": 768, "layers": 12, "heads": 12, "vocabulary": 50272},
}
CONTENDERS = {
    "ours": "PAMA on group advantages, float32",
    "trl-float32": "TRL GRPO, float32, no gradient checkpointing",
    "trl-defaults": "TRL GRPO, its defaults: bf16 autocast, gradient checkpointing",
}
PHASES = ["generate", "reference", "update", "other"]


def word_share(prompts, completions, **_):
    """The share of words in the first half of the vocabulary."""
    return [statistics.fmean(int(word[1:]) % 2 for word in text.split()) for text in completions]


def distinct_share(prompts, completions, **_):
    """The share of words that are said once."""
    return [len(set(text.split())) / len(text.split()) for text in completions]


def make_model(size: str, folder: Path) -> None:
    """Random weights and a word tokenizer whose end token the model cannot say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    s = SIZES[size]
    words = ["<pad>", *(f"w{i}" for i in range(1, s["vocabulary"])), "<eos>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=s["vocabulary"],
        hidden_size=s["width"],
        word_embed_proj_dim=s["width"],
        ffn_dim=4 * s["width"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        max_position_embeddings=2048 if size != "small" else 128,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=s["vocabulary"],
        eos_token_id=s["vocabulary"],
    )
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts_of(size: str, count: int) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, SIZES[size]["vocabulary"], (count, PROMPT), generator=generator)
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]


def wait_for_turn() -> None:
    """The parent says when; end of input means that it is over."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(0)


def report(phases: dict[str, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("step " + json.dumps({**phases, "peak_memory_bytes": peak}), flush=True)


def run_ours(size: str, folder: Path, steps: int) -> None:
    from lightning import Callback, Trainer
    from torch.utils.data import DataLoader

    from pama_exp.alignment import Alignment, OptimizerSettings
    from pama_exp.data.prompts import PromptStream
    from pama_exp.moo.pama import PAMA
    from pama_exp.policy.loading import load_model, load_tokenizer
    from pama_exp.policy.policy import Policy, freeze
    from pama_exp.rewards.function import FunctionScorer
    from pama_exp.rewards.objective import Objective
    from pama_exp.rl.estimators import Group
    from pama_exp.rl.kl import FixedKL
    from pama_exp.rollout.engine import Sampling
    from pama_exp.rollout.fast import FastEngine
    from pama_exp.update import UpdateSettings

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
        prompts=PromptStream(prompts_of(size, 256), tokenizer, responses // GROUP, seed=0, group_size=GROUP),
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
    trainer.fit(module, DataLoader(range(steps), batch_size=None))


def run_trl(size: str, folder: Path, steps: int, defaults: bool) -> None:
    sys.modules["trackio"] = None  # TRL imports it where it finds it; nothing is reported here
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    phases: dict[str, float] = {}

    @contextmanager
    def timed(phase):
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
            train_dataset=Dataset.from_dict({"prompt": prompts_of(size, 256)}),
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


class Contender:
    """A process that makes a step when told to."""

    def __init__(self, name: str, size: str, folder: Path, steps: int) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, __file__, "--contender", name, size, str(folder), str(steps)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=environment
        )

    def _read(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")

    def step(self) -> dict[str, float]:
        self._read("ready")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self._read("step"))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1:2] == ["--contender"]:
        _, _, name, size, folder, steps = sys.argv
        if name == "ours":
            run_ours(size, Path(folder), int(steps))
        else:
            run_trl(size, Path(folder), int(steps), defaults=name == "trl-defaults")
    else:
        size = sys.argv[1]
        rounds = int(sys.argv[2])
        names = sys.argv[3:] or list(CONTENDERS)
        with tempfile.TemporaryDirectory() as folder:
            make_model(size, Path(folder))
            cs = {n: Contender(n, size, Path(folder), rounds + 2) for n in names}
            for r in range(rounds):
                for n, c in cs.items():
                    print(r, n, {k: round(v, 3) for k, v in c.step().items()}, flush=True)
            for c in cs.values():
                c.close()
