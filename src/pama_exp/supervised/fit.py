"""Supervised training of policies and reward models: warm-up, cosine decay, clipped gradients, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from pama_exp.config.schema import FitConfig
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError, located
from pama_exp.parallel.finite import norm, require_finite
from pama_exp.supervised.journal import Journal
from pama_exp.tracking.console import progress

B = TypeVar("B")


class Schedule(Protocol):
    """The settings of supervised training, as in `FitConfig`. Warm-up is counted in steps."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float


def fit(
    model: nn.Module,
    config: FitConfig,
    title: str,
    lengths: Sequence[int],
    loss_of: Callable[[Sequence[int]], Tensor],
) -> float:
    """Minimise `loss_of(indices of examples)` with AdamW; returns the mean loss of the last tenth of the steps.

    Args:
        model: the model to train.
        config: steps, batch size and so on.
        title: the name of the training in the progress bar and in errors.
        lengths: tokens of each example. A batch holds examples of similar length, so that there is little padding.
        loss_of: the mean loss of a batch.

    Raises:
        UserError: if no parameter is trained, or the loss, the gradient or a weight is not finite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    batches = Batches(lengths, config.batch_size, random_state(config.seed, 0, title))
    return minimise(model, config, title, batches, lambda rows: [loss_of(rows)], optimizer)


def minimise(
    model: nn.Module,
    config: Schedule,
    title: str,
    batch_of: Callable[[int], B],
    losses_of: Callable[[B], Iterable[Tensor]],
    optimizer: torch.optim.Optimizer,
    journal: Journal | None = None,
) -> float:
    """Train for `config.steps` steps, one batch each; returns the mean loss of the last tenth of the steps.

    Args:
        model: the model to train.
        config: steps, learning rate and warm-up.
        title: the name of the training in the progress bar and in errors.
        batch_of: the batch of a step. It depends on the step's number alone.
        losses_of: parts whose sum is the loss of a batch. The gradient of each is computed before the next part.
        optimizer: for the model's trained parameters.
        journal: resumes the training, and writes metrics and checkpoints; None to start anew and write nothing.

    Raises:
        UserError: if no parameter is trained, or the loss, the gradient or a weight is not finite.
        Interrupted: after a signal, if there is a journal.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"{title}: the model has no trained parameter.", "Give a model whose weights are not frozen.")
    hint = f"Lower its learning_rate={config.learning_rate:g}, or are its weights broken? Nothing of it is kept."
    scheduler = get_scheduler("cosine", optimizer, config.warmup_steps, config.steps)
    losses: list[float] = []
    if journal is not None:
        losses = journal.restore(model, optimizer, scheduler)
    model.train()
    with progress(title, config.steps, done=len(losses)) as bar, nullcontext() if journal is None else journal.open():
        for step in range(len(losses), config.steps):
            batch = batch_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros(())
            for part in losses_of(batch):
                torch.autograd.backward(part)
                loss = loss.to(part.device) + part.detach()
            gradient = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            with located(f"{title}, step {step + 1} of {config.steps}"):
                require_finite({"The loss": loss, "The norm of the gradient": gradient}, hint)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            bar.advance({"loss": losses[-1]})
            if journal is not None:
                journal.log_step(losses, len(losses) == config.steps, model, optimizer, scheduler)
    model.eval()
    with torch.no_grad(), located(f"{title}, after step {config.steps}"):
        require_finite({"The norm of the weights": norm(trained)}, hint)
        if losses and journal is None:  # no loss has been computed after the last update
            require_finite({"The loss": torch.stack(list(losses_of(batch))).sum()}, hint)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else float("nan")  # NaN after 0 steps


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which passes compute in bfloat16, if `trainer.precision` says bf16. Weights keep their type."""
    return torch.autocast(device.type, torch.bfloat16) if "bf16" in precision else nullcontext()


class Batches:
    """The indices of the examples of each step's batch. Every epoch holds each example once.

    Args:
        lengths: tokens of each example.
        batch_size: examples per batch; the last batch of an epoch may be smaller.
        state: the seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, state: int) -> None:
        self._lengths, self._batch_size, self._state = lengths, batch_size, state
        self._generator = torch.Generator().manual_seed(state)
        self._epoch = -1
        self._order: list[list[int]] = []

    def __call__(self, step: int) -> list[int]:
        """The indices of a step's examples."""
        epoch, place = divmod(step, -(-len(self._lengths) // self._batch_size))
        if epoch < self._epoch:  # epochs can only be drawn in order
            self._generator.manual_seed(self._state)
            self._epoch = -1
        while self._epoch < epoch:
            self._order = _epoch(self._lengths, self._batch_size, self._generator)
            self._epoch += 1
        return self._order[-1 - place]


def _epoch(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """Every example once, in shuffled batches of similar length: sorted within windows of eight batches."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = 8 * batch_size
    rows = [i for at in range(0, len(order), window) for i in sorted(order[at : at + window], key=lambda i: lengths[i])]
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def pad_right(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Token ids (B,L) and a mask (B,L), True on tokens."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[tokenizer.pad_token_id] * (length - len(row))] for row in rows])
    return ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
