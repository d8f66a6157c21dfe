"""An SFT policy and a reward model learned from a table of text, saved as folders in Hugging Face format."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.schema import FitConfig
from pama_exp.data.streams import random_state
from pama_exp.data.tokens import encode_whole
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_classifier, load_model, load_tokenizer, save
from pama_exp.supervised import batch_losses
from pama_exp.supervised.fit import fit
from pama_exp.supervised.start_model import StartModel
from pama_exp.tracking.console import note

Demonstration = tuple[str, str]
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class Learner:
    """What both kinds of training need.

    Attributes:
        start: the model's settings.
        base: the folder of the model that is trained on.
        device: where it is trained.
        is_half: compute in bfloat16; weights stay in `model.dtype`.
    """

    start: StartModel
    base: Path
    device: torch.device
    is_half: bool

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which passes are made."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.is_half else nullcontext()


def train_policy(
    learner: Learner,
    demonstrations: Sequence[Demonstration],
    held_out: Sequence[Demonstration],
    settings: FitConfig,
    seed: int,
    folder: Path,
) -> tuple[dict[str, float], int, int]:
    """Fine-tune on demonstrations and save the policy, an adapter merged into it.

    Args:
        learner: model and device.
        demonstrations: (prompt, response) to learn from.
        held_out: (prompt, response) that the loss is measured on.
        settings: steps, batch size and so on.
        seed: of an adapter's start.
        folder: where the policy is saved.

    Returns:
        Nats per held-out token before and after, and the numbers of demonstrations learned and held out.

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
    with learner.precision():
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
    return loss, len(train), len(test)


def train_reward_model(
    learner: Learner, pairs: Sequence[Pair], held_out: Sequence[Pair], settings: FitConfig, folder: Path
) -> tuple[float, int, int]:
    """Train a classifier of one output on preference pairs and save it.

    Args:
        learner: model and device.
        pairs: (prompt, chosen, rejected) to learn from.
        held_out: (prompt, chosen, rejected) that the accuracy is measured on.
        settings: steps, batch size and so on.
        folder: where the classifier is saved.

    Returns:
        The accuracy, the number of pairs learned, and of those it was measured on.

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
    with learner.precision():
        fit(
            model,
            settings,
            "Reward model",
            lengths,
            lambda rows: batch_losses.preference_loss(model, tokenizer, [train[i] for i in rows]),
        )
        accuracy = _accuracy(model, tokenizer, test, settings.batch_size)
    save(model, tokenizer, folder)
    return accuracy, len(train), len(test)


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
    counts = [len(ids) for ids in encode_whole(tokenizer, batch_losses.pair_texts(pairs))]
    longer = [max(both) for both in zip(counts[: len(pairs)], counts[len(pairs) :], strict=True)]
    kept = [i for i, length in enumerate(longer) if length <= limit]
    if not kept:
        raise UserError(
            f"Every preference pair is longer than {limit} tokens (the shortest has {min(longer)}).",
            "Set reward_model.max_length, or choose a model with more positions.",
        )
    return [pairs[i] for i in kept], [longer[i] for i in kept]
