"""A step's work shared among processes: each does its rows, and every one then holds the whole batch's small tensors.

Whatever is a mean, a whitening or a decision over the batch is afterwards computed on each process alike, from the same
numbers, so that nothing of it needs a reduction of its own.

Legend: N objectives, B responses, b those of this process, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
    """One response to each of the B prompts, on the device; every process answers its share of them.

    A response depends on the seed and its row, and not on how many processes there are.
    """
    rows = collectives.share(len(prompts))
    seeds = [random_state(seed, row, "response") for row in rows]
    if collectives.size() == 1:
        return engine.generate(prompts, sampling, seeds)

    def answer() -> tuple[list[int], Any]:
        if not rows:
            return rows, None
        own = engine.generate(of_rows(prompts, rows), sampling, seeds)
        # Log-probabilities are kept where they are not those that the update would compute.
        kept = own.log_probs.cpu() if own.log_probs is not None and own.states is None else None
        return rows, (own.response_ids.cpu(), own.response_mask.cpu(), own.finished.cpu(), own.texts, kept)

    return _merged(prompts, collectives.gather_each(answer), device)


def answering(engine: RolloutEngine, sampling: Sampling, device: torch.device) -> Callable[[PromptBatch, int], Rollout]:
    """`generate` with all but prompts and seed given."""
    return lambda prompts, seed: generate(engine, prompts, sampling, seed, device)


def score(compute: Callable[[PromptBatch, Sequence[str]], Tensor], rollout: Rollout) -> Tensor:
    """(N, B) from a scorer of (N, b), every process scoring its share of the responses."""
    rows = collectives.share(len(rollout))
    if collectives.size() == 1:
        return compute(rollout.prompts, rollout.texts)

    def share() -> tuple[list[int], Tensor | None]:
        own = [rollout.texts[row] for row in rows]
        return rows, compute(of_rows(rollout.prompts, rows), own) if rows else None

    pieces = [(index, scores) for index, scores in collectives.gather_each(share) if scores is not None]
    whole = torch.empty(*pieces[0][1].shape[:-1], len(rollout))
    for index, scores in pieces:
        whole[..., index] = scores
    return whole


def parts_of(rollout: Rollout, token_budget: int) -> list[Tensor]:
    """Row indices of this process's micro-batches: within the token budget, and as many as every other process has.

    Responses of similar length are in the same micro-batch, and the processes take turns in order of length, so that
    none waits for another.
    """
    lengths = rollout.response_mask.sum(-1)
    turns = lengths.argsort(stable=True).view(-1, collectives.size())
    parts = micro_batches(lengths[turns].amax(1), rollout.prompts.input_ids.shape[1], token_budget)
    return [turns[part, collectives.rank()] for part in parts]


def of_rows(prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
    """The prompts at `rows`, as wide as before."""
    return replace(
        prompts,
        input_ids=prompts.input_ids[list(rows)],
        mask=prompts.mask[list(rows)],
        texts=[prompts.texts[row] for row in rows],
        columns={name: [values[row] for row in rows] for name, values in prompts.columns.items()},
        preferences=None if prompts.preferences is None else prompts.preferences[list(rows)],
        prefills=None if prompts.prefills is None else [prompts.prefills[row] for row in rows],
    )


def _merged(prompts: PromptBatch, pieces: Sequence[tuple[list[int], Any]], device: torch.device) -> Rollout:
    """The whole rollout from (rows, what a process told of them); None was told where a process had no rows."""
    told = [(rows, piece) for rows, piece in pieces if piece is not None]
    count, length = len(prompts), max(ids.shape[1] for _, (ids, *_) in told)
    # Any id serves as padding: nothing looks at it.
    ids, mask = torch.zeros(count, length, dtype=torch.long), torch.zeros(count, length, dtype=torch.bool)
    finished, texts = torch.zeros(count, dtype=torch.bool), [""] * count
    log_probs = torch.zeros(count, length)
    for rows, (own_ids, own_mask, own_finished, own_texts, own_log_probs) in told:
        if own_log_probs is not None:
            log_probs[rows, : own_log_probs.shape[1]] = own_log_probs
        ids[rows, : own_ids.shape[1]], mask[rows, : own_mask.shape[1]] = own_ids, own_mask
        finished[rows] = own_finished
        for row, text in zip(rows, own_texts, strict=True):
            texts[row] = text
    has_own = told[0][1][-1] is not None
    return Rollout(
        to_device(prompts, device),
        ids.to(device),
        mask.to(device),
        finished.to(device),
        texts,
        log_probs=log_probs.to(device) if has_own else None,
    )
