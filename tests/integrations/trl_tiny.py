"""TRL's trainers on a tiny model: two reward functions whose answers a test can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

import tiny

PROMPTS = ["a b c", "d e", "f g h", "i j"]


def letters(completions, **columns):
    """The share of the first letters of the alphabet."""
    words = [text.split() for text in completions]
    return [sum(word <= "h" for word in said) / max(1, len(said)) for said in words]


def short(completions, **columns):
    """Brevity, in other units."""
    return [10.0 - 0.7 * len(text.split()) ** 1.5 for text in completions]


def picky(completions, **columns):
    """Says nothing of answers that begin in the second half of the alphabet."""
    return [None if text.strip()[:1] > "h" else float(len(set(text.split()))) for text in completions]


def arguments(config: Any, folder: Any, **settings: Any) -> Any:
    """Settings of two prompts with four answers each per step."""
    return config(
        output_dir=str(folder),
        per_device_train_batch_size=settings.pop("per_device_train_batch_size", 8),
        num_generations=4,
        max_completion_length=6,
        learning_rate=1e-2,
        max_steps=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        save_strategy=settings.pop("save_strategy", "no"),
        logging_steps=1,
        disable_tqdm=True,
        seed=3,
        **settings,
    )


def trainer(kind: Any, config: Any, folder: Any, rewards: Any = None, settings: Any = None, **given: Any) -> Any:
    """A trainer of this kind on the tiny model; the same seed gives the same answers."""
    start = Path(folder) / "start"  # a folder, because the reference is loaded a second time
    if not start.exists():
        tiny.language_model("llama").save_pretrained(start)
    return kind(
        model=AutoModelForCausalLM.from_pretrained(start),
        reward_funcs=list(rewards or (letters, short)),
        args=arguments(config, folder, **(settings or {})),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=tiny.tokenizer(),
        **given,
    )


def first_batch(made: Any) -> dict[str, torch.Tensor]:
    """The first generation batch as the loss would get it."""
    made.model.train()
    torch.manual_seed(5)
    rows = next(iter(made.get_train_dataloader()))
    return made._generate_and_score_completions(rows)
