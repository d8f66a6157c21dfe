"""`stage=sft` and `stage=reward_model` on real text: from the base model to a folder of the run, with its card."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.build.task import TextTask
from pama_exp.config.naming import markdown_text
from pama_exp.config.schema import Config
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError
from pama_exp.policy.export import fenced
from pama_exp.policy.loading import build_classifier, load_model, load_tokenizer, save
from pama_exp.safety.secrets import redact
from pama_exp.storage.files import write_manifest
from pama_exp.supervised import batch_losses
from pama_exp.supervised.fit import fit
from pama_exp.supervised.start_model import base_name, load_policy
from pama_exp.supervised.testbed import start_folder
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord

Pair = tuple[str, str, str]


def sft(config: Config, record: RunRecord, task: TextTask) -> dict[str, Any]:
    """Fine-tune on the training split's demonstrations; returns the loss on the test split's, before and after.

    Raises:
        UserError: if there are no demonstrations, or all are too long.
    """
    settings, folder, base = config.sft, record.folder / "policy", start_folder(config)
    learned, held_out = task.data.demonstrations("train"), task.data.demonstrations("test")
    model, adapter = load_policy(base, config)
    model, tokenizer = _on_device(model, config), load_tokenizer(base)
    limit = batch_losses.room(model, settings.max_length)
    train = batch_losses.encode(learned[: settings.examples], tokenizer, limit)
    test = batch_losses.encode(held_out[: config.evaluate.prompts], tokenizer, limit)
    torch.manual_seed(random_state(settings.seed, 0, "sft"))  # of dropout
    lengths = [len(ids) for _, ids in train]
    with _precision(config):
        loss = {"before": _test_loss(model, tokenizer, test, settings.batch_size)}
        if settings.packing:
            packs = batch_losses.pack(lengths, limit)
            fit(
                model,
                settings,
                "SFT",
                [sum(lengths[i] for i in pack) for pack in packs],
                lambda rows: batch_losses.packed_response_loss(
                    model, tokenizer, [[train[i] for i in packs[r]] for r in rows]
                ),
            )
        else:
            fit(
                model,
                settings,
                "SFT",
                lengths,
                lambda rows: batch_losses.response_loss(model, tokenizer, [train[i] for i in rows]),
            )
        loss["after"] = _test_loss(model, tokenizer, test, settings.batch_size)
    note(f"Loss on {len(test)} held-out demonstrations: {loss['before']:.3f} → {loss['after']:.3f} nats per token.")
    save(model if adapter is None else adapter.merge(), tokenizer, folder)
    made = f"Fine-tuned on {len(train)} demonstrations; loss on {len(test)} held-out ones {loss['after']:.3f} nats."
    _write_card(folder, config, "text-generation", made, "AutoModelForCausalLM.from_pretrained(FOLDER)")
    return {"status": "complete", "policy": str(folder), "held_out_loss": loss, "run_dir": str(record.folder)}


def reward_model(config: Config, record: RunRecord, task: TextTask) -> dict[str, Any]:
    """Train a classifier of one output on the training split's pairs; returns its accuracy on the test split's.

    Raises:
        UserError: if there are no pairs, or all are too long.
    """
    settings, folder, base = config.reward_model, record.folder / "reward_model", start_folder(config)
    learned, held_out = task.data.preference_pairs("train"), task.data.preference_pairs("test")
    tokenizer = load_tokenizer(base)
    torch.manual_seed(random_state(settings.seed, 0, "reward-initialisation"))
    model = _on_device(build_classifier(_load(base, config), tokenizer), config)
    limit = batch_losses.room(model, settings.max_length)
    train, lengths = _short(learned[: settings.examples], tokenizer, limit)
    test, _ = _short(held_out[: config.evaluate.prompts], tokenizer, limit)
    with _precision(config):
        fit(
            model,
            settings,
            "Reward model",
            lengths,
            lambda rows: batch_losses.preference_loss(model, tokenizer, [train[i] for i in rows]),
        )
        accuracy = _accuracy(model, tokenizer, test, settings.batch_size)
    save(model, tokenizer, folder)
    made = f"Trained on {len(train)} preference pairs; ranks {accuracy:.1%} of {len(test)} held-out ones as they do."
    load = 'ClassifierScorer("FOLDER")` of pama_exp.rewards.classifier, or `AutoModelForSequenceClassification'
    _write_card(folder, config, "text-classification", made, load)
    found = {"held_out_accuracy": accuracy, "pairs": len(test), "folder": str(folder)}
    return {"status": "complete", "reward_models": {"preferences": found}, "run_dir": str(record.folder)}


def _precision(config: Config) -> AbstractContextManager[Any]:
    """bfloat16 where the trainer computes in it; weights stay in `model.dtype`."""
    is_half = "bf16" in config.trainer.precision
    device = "cuda" if config.trainer.accelerator in ("gpu", "cuda") else "cpu"
    return torch.autocast(device, torch.bfloat16) if is_half else nullcontext()


def _on_device(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    return model.to("cuda" if config.trainer.accelerator in ("gpu", "cuda") else "cpu")


@torch.no_grad()
def _test_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[batch_losses.Example], size: int
) -> float:
    """Nats per token of the responses."""
    total, count = 0.0, 0
    for at in range(0, len(examples), size):
        batch = examples[at : at + size]
        tokens = sum(len(ids) - start for start, ids in batch)
        total += batch_losses.response_loss(model, tokenizer, batch).item() * tokens
        count += tokens
    return total / count


@torch.no_grad()
def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], size: int) -> float:
    right = 0
    for at in range(0, len(pairs), size):
        chosen, rejected = batch_losses.pair_scores(model, tokenizer, pairs[at : at + size])
        right += int((chosen > rejected).sum())
    return right / len(pairs)


def _short(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[list[Pair], list[int]]:
    """The pairs whose texts both have at most `limit` tokens, and the tokens of the longer of the two."""
    counts = [len(ids) for ids in tokenizer(batch_losses.pair_texts(pairs))["input_ids"]]
    longer = [max(both) for both in zip(counts[: len(pairs)], counts[len(pairs) :], strict=True)]
    kept = [i for i, length in enumerate(longer) if length <= limit]
    if not kept:
        raise UserError(
            f"Every preference pair is longer than {limit} tokens (the shortest has {min(longer)}).",
            "Set reward_model.max_length, or choose a model with more positions.",
        )
    return [pairs[i] for i in kept], [longer[i] for i in kept]


def _load(base: Path, config: Config) -> PreTrainedModel:
    return load_model(base, config.model.dtype, allow_pickle=config.model.allow_pickle)


def _write_card(folder: Path, config: Config, purpose: str, made: str, load: str) -> None:
    data = config.data
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {purpose}",
        "tags: [pama-exp]",
        "---",
        "",
        f"# {markdown_text(config.model.name)}: {markdown_text(config.stage.get('name', purpose))}",
        "",
        f"Starts from {markdown_text(base_name(config.model))}. {made}",
        f"Data: {markdown_text(str(data.path or data.id))}, read as `{data.format}`.",
        f"Load with `{load}`.",
        "",
        *fenced(redact(shlex.join(sys.argv))),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    write_manifest(folder)
