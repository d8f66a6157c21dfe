"""Supervised training, the part that SFT and reward models share: AdamW, warm-up, cosine decay, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from pama_exp.data.streams import random_state
from pama_exp.schema import FitConfig
from pama_exp.tracking.console import progress


def fit(model: nn.Module, config: FitConfig, title: str, loss_of: Callable[[Sequence[int]], Tensor]) -> float:
    """Minimise `loss_of(indices of examples)` over shuffled epochs; returns the mean loss of the last tenth."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    scheduler = get_scheduler("cosine", optimizer, config.warmup_steps, config.steps)
    generator = torch.Generator().manual_seed(random_state(config.seed, 0, title))
    queue: list[int] = []
    losses: list[float] = []
    model.train()
    with progress(title, config.steps) as bar:
        for _ in range(config.steps):
            while len(queue) < config.batch_size:
                queue += torch.randperm(config.examples, generator=generator).tolist()
            rows, queue = queue[: config.batch_size], queue[config.batch_size :]
            loss = loss_of(rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            bar.advance({"loss": losses[-1]})
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def pad_right(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Token ids (B,L) and a mask (B,L), True on tokens."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[tokenizer.pad_token_id] * (length - len(row))] for row in rows])
    return ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
