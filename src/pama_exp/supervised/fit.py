"""Supervised training, the part that SFT and reward models share: AdamW, warm-up, cosine decay, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from pama_exp.config.schema import FitConfig
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError, located
from pama_exp.parallel.finite import norm, require_finite
from pama_exp.tracking.console import progress


def fit(
    model: nn.Module,
    config: FitConfig,
    title: str,
    lengths: Sequence[int],
    loss_of: Callable[[Sequence[int]], Tensor],
) -> float:
    """Minimise `loss_of(indices of examples)`; returns the mean loss of the last tenth.

    Args:
        model: what is trained.
        config: steps, batch size and so on.
        title: what the person watching reads.
        lengths: tokens of each example; a batch holds examples of similar length, so that little of it is padding.
        loss_of: the mean loss of a batch.

    Raises:
        UserError: if nothing is trained, or the loss, the gradient or a weight is not finite.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"{title}: the model has no trained parameter.", "Give a model whose weights are not frozen.")
    hint = f"Lower its learning_rate={config.learning_rate:g}, or are its weights broken? Nothing of it is kept."
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    scheduler = get_scheduler("cosine", optimizer, config.warmup_steps, config.steps)
    generator = torch.Generator().manual_seed(random_state(config.seed, 0, title))
    queue: list[list[int]] = []
    losses: list[float] = []
    model.train()
    with progress(title, config.steps) as bar:
        for step in range(config.steps):
            if not queue:
                queue = _epoch(lengths, config.batch_size, generator)
            rows = queue.pop()
            loss = loss_of(rows)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            gradient = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            with located(f"{title}, step {step + 1} of {config.steps}"):
                require_finite({"The loss": loss, "The norm of the gradient": gradient}, hint)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            bar.advance({"loss": losses[-1]})
    model.eval()
    if losses:  # the last update has not been seen by a loss yet
        with torch.no_grad(), located(f"{title}, after step {config.steps}"):
            require_finite({"The norm of the weights": norm(trained), "The loss": loss_of(rows)}, hint)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else float("nan")  # no steps: the model stays as it is


def _epoch(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """Every example once, in batches of similar length, both shuffled: sorted within windows of eight batches."""
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
