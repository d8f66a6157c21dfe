"""The work of a step shared among processes: each computes its rows, then all hold the whole batch's small tensors.

Means, whitening and decisions over the batch are then computed by every process from the same numbers, without further
communication.

Legend: N objectives, B responses, b responses of this process, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pama_exp.data.streams import random_state
from pama_exp.parallel import collectives
from pama_exp.policy.policy import micro_batches
from pama_exp.rollout.engine import RolloutEngine, Sampling, to_device
from pama_exp.types import PromptBatch, Rollout


def generate(
    engine: RolloutEngine, prompts: PromptBatch, sampling: Sampling, seed: int, device: torch.device
) -> Rollout:
    """One response to each of the B prompts, on the device; every process generates its share.

    A response depends on the seed and its row, not on the number of processes.
    """
    rows = collectives.share(len(prompts))
    seeds = [random_state(seed, row, "response") for row in rows]
    if collectives.size() == 1:
        return engine.generate(prompts, sampling, seeds)

    def answer() -> tuple[list[int], Any]:
        if not rows:
            return rows, None
        part = engine.generate(prompts.rows(rows), sampling, seeds)
        # Log-probabilities are sent only if they differ from those that the update would compute.
        log_probs = part.log_probs.cpu() if part.log_probs is not None and part.states is None else None
        return rows, (part.response_ids.cpu(), part.response_mask.cpu(), part.finished.cpu(), part.texts, log_probs)

    return _merged(prompts, collectives.gather_each(answer), device)


def answering(engine: RolloutEngine, sampling: Sampling, device: torch.device) -> Callable[[PromptBatch, int], Rollout]:
    """`generate` with all but prompts and seed given."""
    return lambda prompts, seed: generate(engine, prompts, sampling, seed, device)


def score(compute: Callable[[PromptBatch, Sequence[str]], Tensor], rollout: Rollout) -> Tensor:
    """Scores (N, B) of all responses; every process applies `compute`, which returns (N, b), to its share."""
    rows = collectives.share(len(rollout))
    if collectives.size() == 1:
        return compute(rollout.prompts, rollout.texts)

    def share() -> tuple[list[int], Tensor | None]:
        texts = [rollout.texts[row] for row in rows]
        return rows, compute(rollout.prompts.rows(rows), texts) if rows else None

    pieces = [(index, scores) for index, scores in collectives.gather_each(share) if scores is not None]
    merged = torch.empty(*pieces[0][1].shape[:-1], len(rollout))
    for index, scores in pieces:
        merged[..., index] = scores
    return merged


def parts_of(rollout: Rollout, token_budget: int) -> list[Tensor]:
    """Row indices of this process's micro-batches, within the token budget; every process has the same number.

    Rows are sorted by length and dealt out to the processes in turn: a micro-batch has responses of similar length, and
    no process waits for another.
    """
    lengths = rollout.response_mask.sum(-1)
    by_length = lengths.argsort(stable=True).view(-1, collectives.size())
    parts = micro_batches(lengths[by_length].amax(1), rollout.prompts.input_ids.shape[1], token_budget)
    return [by_length[part, collectives.rank()] for part in parts]


def _merged(prompts: PromptBatch, pieces: Sequence[tuple[list[int], Any]], device: torch.device) -> Rollout:
    """The whole rollout from the processes' pieces, (rows, tensors and texts); None from a process without rows."""
    parts = [(rows, piece) for rows, piece in pieces if piece is not None]
    count, length = len(prompts), max(ids.shape[1] for _, (ids, *_) in parts)
    # Padding ids are never read.
    ids, mask = torch.zeros(count, length, dtype=torch.long), torch.zeros(count, length, dtype=torch.bool)
    finished, texts = torch.zeros(count, dtype=torch.bool), [""] * count
    log_probs = torch.zeros(count, length)
    for rows, (part_ids, part_mask, part_finished, part_texts, part_log_probs) in parts:
        if part_log_probs is not None:
            log_probs[rows, : part_log_probs.shape[1]] = part_log_probs
        ids[rows, : part_ids.shape[1]], mask[rows, : part_mask.shape[1]] = part_ids, part_mask
        finished[rows] = part_finished
        for row, text in zip(rows, part_texts, strict=True):
            texts[row] = text
    has_log_probs = parts[0][1][-1] is not None
    return Rollout(
        to_device(prompts, device),
        ids.to(device),
        mask.to(device),
        finished.to(device),
        texts,
        log_probs=log_probs.to(device) if has_log_probs else None,
    )
