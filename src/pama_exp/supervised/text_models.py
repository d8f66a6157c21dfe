"""Training of an SFT policy or a reward model on a table of text, saved as a folder in Hugging Face format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.schema import FitConfig
from pama_exp.data.streams import random_state
from pama_exp.data.tokens import encode_whole
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_classifier, load_model, load_tokenizer, save
from pama_exp.supervised import batch_losses
from pama_exp.supervised.fit import autocast, fit
from pama_exp.supervised.start_model import StartModel
from pama_exp.tracking.console import note

Demonstration = tuple[str, str]
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class Learner:
    """The model that is trained, and how it is computed.

    Attributes:
        start: the model's settings.
        base: the folder of the model that training starts from.
        device: the device that it is trained on.
        precision: `trainer.precision`, as `autocast` takes it.
    """

    start: StartModel
    base: Path
    device: torch.device
    precision: str


def train_policy(
    learner: Learner,
    demonstrations: Sequence[Demonstration],
    held_out: Sequence[Demonstration],
    settings: FitConfig,
    seed: int,
    folder: Path,
) -> tuple[dict[str, float], int, int]:
    """Fine-tune on demonstrations and save the policy. An adapter is merged into it.

    Args:
        learner: the model and its device.
        demonstrations: (prompt, response) to learn from.
        held_out: (prompt, response) that the loss is measured on.
        settings: steps, batch size and so on.
        seed: of a new adapter's weights.
        folder: where the policy is saved.

    Returns:
        The held-out loss {before, after} in nats per token, and the numbers of training and held-out demonstrations.

    Raises:
        UserError: if all demonstrations are too long.
    """
    model, adapter = learner.start.load_policy(learner.base, seed)
    model, tokenizer = model.to(learner.device), load_tokenizer(learner.base)
    limit = batch_losses.max_tokens(model, settings.max_length)
    train = batch_losses.encode(demonstrations[: settings.examples], tokenizer, limit)
    test = batch_losses.encode(held_out, tokenizer, limit)
    torch.manual_seed(random_state(settings.seed, 0, "sft"))  # of dropout
    lengths = [len(ids) for _, ids in train]
    packs = batch_losses.pack(lengths, limit) if settings.packing else []

    def loss_of(rows: Sequence[int]) -> Tensor:
        return batch_losses.response_loss(model, tokenizer, [train[i] for i in rows])

    def packed_loss_of(rows: Sequence[int]) -> Tensor:
        return batch_losses.packed_response_loss(model, tokenizer, [[train[i] for i in packs[r]] for r in rows])

    with autocast(learner.device, learner.precision):
        loss = {"before": _test_loss(model, tokenizer, test, settings.batch_size)}
        if settings.packing:
            fit(model, settings, "SFT", [sum(lengths[i] for i in pack) for pack in packs], packed_loss_of)
        else:
            fit(model, settings, "SFT", lengths, loss_of)
        loss["after"] = _test_loss(model, tokenizer, test, settings.batch_size)
    note(f"Loss on {len(test)} held-out demonstrations: {loss['before']:.3f} → {loss['after']:.3f} nats per token.")
    save(model if adapter is None else adapter.merge(), tokenizer, folder)
    return loss, len(train), len(test)


def train_reward_model(
    learner: Learner, pairs: Sequence[Pair], held_out: Sequence[Pair], settings: FitConfig, folder: Path
) -> tuple[float, int, int]:
    """Train a classifier with one output on preference pairs and save it.

    Args:
        learner: the model and its device.
        pairs: (prompt, chosen, rejected) to learn from.
        held_out: (prompt, chosen, rejected) that the accuracy is measured on.
        settings: steps, batch size and so on.
        folder: where the classifier is saved.

    Returns:
        The held-out accuracy, and the numbers of training and held-out pairs.

    Raises:
        UserError: if all pairs are too long.
    """
    m, tokenizer = learner.start.model, load_tokenizer(learner.base)
    torch.manual_seed(random_state(settings.seed, 0, "reward-initialisation"))
    trunk = load_model(learner.base, m.dtype, allow_pickle=m.allow_pickle)
    model = build_classifier(trunk, tokenizer).to(learner.device)
    limit = batch_losses.max_tokens(model, settings.max_length)
    train, lengths = _short(pairs[: settings.examples], tokenizer, limit)
    test, _ = _short(held_out, tokenizer, limit)

    def loss_of(rows: Sequence[int]) -> Tensor:
        return batch_losses.preference_loss(model, tokenizer, [train[i] for i in rows])

    with autocast(learner.device, learner.precision):
        fit(model, settings, "Reward model", lengths, loss_of)
        accuracy = _accuracy(model, tokenizer, test, settings.batch_size)
    save(model, tokenizer, folder)
    return accuracy, len(train), len(test)


@torch.no_grad()
def _test_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[batch_losses.Example], size: int
) -> float:
    """The mean loss of the responses, in nats per token."""
    total, count = 0.0, 0
    for at in range(0, len(examples), size):
        batch = examples[at : at + size]
        tokens = sum(len(ids) - start for start, ids in batch)
        total += batch_losses.response_loss(model, tokenizer, batch).item() * tokens
        count += tokens
    return total / count


@torch.no_grad()
def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], size: int) -> float:
    """The share of pairs whose chosen response scores higher."""
    correct = 0
    for at in range(0, len(pairs), size):
        chosen, rejected = batch_losses.pair_scores(model, tokenizer, pairs[at : at + size])
        correct += int((chosen > rejected).sum())
    return correct / len(pairs)


def _short(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[list[Pair], list[int]]:
    """The pairs whose texts both have at most `limit` tokens, and the number of tokens of the longer text of each."""
    counts = [len(ids) for ids in encode_whole(tokenizer, batch_losses.pair_texts(pairs))]
    lengths = [max(both) for both in zip(counts[: len(pairs)], counts[len(pairs) :], strict=True)]
    short = [i for i, length in enumerate(lengths) if length <= limit]
    if not short:
        raise UserError(
            f"Every preference pair is longer than {limit} tokens (the shortest has {min(lengths)}).",
            "Set reward_model.max_length, or choose a model with more positions.",
        )
    return [pairs[i] for i in short], [lengths[i] for i in short]
