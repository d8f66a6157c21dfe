"""A policy on held-out prompts: its responses and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pama_exp.data.prompts import PromptStream
from pama_exp.data.streams import random_state
from pama_exp.rewards.objective import Objective, score_all
from pama_exp.training import shared_rollout
from pama_exp.types import PromptBatch, Rollout

EVALUATED_AT_ONCE = 128  # prompts


def answers(generate: Callable[[PromptBatch, int], Rollout], stream: PromptStream, seed: int) -> Iterator[Rollout]:
    """A response to every prompt of the stream, a batch at a time; one seed draws alike for every policy.

    Args:
        generate: answers a batch, from a seed.
        stream: the prompts.
        seed: of the whole.
    """
    for index, batch in enumerate(stream.slices(EVALUATED_AT_ONCE)):
        yield generate(batch, random_state(seed, index, "evaluate"))


def evaluate(objectives: Sequence[Objective], rollouts: Iterable[Rollout]) -> Evaluation:
    """Score every response by every objective, as training sees it and by the gold program.

    Args:
        objectives: what is scored.
        rollouts: prompts with one response each, a batch at a time.

    Raises:
        UserError: if a scorer fails.
    """
    prompts: list[str] = []
    responses: list[str] = []
    lengths: list[Tensor] = []
    proxy: dict[str, list[Tensor]] = {objective.name: [] for objective in objectives}
    gold: dict[str, list[Tensor]] = {objective.name: [] for objective in objectives if objective.gold is not None}
    for rollout in rollouts:
        prompts += rollout.prompts.texts
        responses += rollout.texts
        lengths.append(rollout.response_mask.sum(-1).cpu())
        scores = shared_rollout.score(partial(score_all, objectives), rollout)
        for name, row in zip(proxy, scores, strict=True):
            proxy[name].append(row)
        for objective in objectives:
            if objective.gold is not None:
                gold[objective.name].append(shared_rollout.score(objective.gold_scores, rollout))
    return Evaluation(
        proxy={name: torch.cat(rows) for name, rows in proxy.items()},
        gold={name: torch.cat(rows) for name, rows in gold.items()},
        lengths=torch.cat(lengths),
        prompts=prompts,
        responses=responses,
    )


@dataclass(frozen=True)
class Evaluation:
    """A policy on held-out prompts: every objective's learned (proxy) and gold reward, and the texts."""

    proxy: Mapping[str, Tensor]
    gold: Mapping[str, Tensor]
    lengths: Tensor
    prompts: Sequence[str]
    responses: Sequence[str]

    def means(self) -> dict[str, dict[str, float | None]]:
        """{objective: {gold, proxy}}; gold is None where no program defines it."""
        return {
            name: {"gold": self.gold[name].mean().item() if name in self.gold else None, "proxy": proxy.mean().item()}
            for name, proxy in self.proxy.items()
        }

    def calibration(self) -> dict[str, dict[str, dict[str, float] | None]]:
        """{objective: {gold, proxy: {mean, deviation}}}: the units in which later policies can be measured."""
        return {
            name: {"gold": _moments(self.gold[name]) if name in self.gold else None, "proxy": _moments(proxy)}
            for name, proxy in self.proxy.items()
        }

    def metrics(self) -> dict[str, float]:
        """Flat names for the record."""
        values = {"eval/response/length": self.lengths.float().mean().item()}
        for kind, table in (("proxy", self.proxy), ("gold", self.gold)):
            for name, rewards in table.items():
                values |= distribution(f"eval/{kind}/{name}", rewards)
        return values

    def rows(self, limit: int) -> list[dict[str, Any]]:
        """The first `limit` generations with their scores, one mapping each."""
        tables = {f"proxy/{k}": v for k, v in self.proxy.items()} | {f"gold/{k}": v for k, v in self.gold.items()}
        return [
            {"prompt": self.prompts[i], "response": self.responses[i], **{k: v[i].item() for k, v in tables.items()}}
            for i in range(min(limit, len(self.prompts)))
        ]


def _moments(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "deviation": values.std(correction=0).item()}


def distribution(name: str, values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quantiles of (B,) rewards under `name`."""
    quantiles = torch.quantile(values.float(), torch.tensor([0.1, 0.5, 0.9])).tolist()
    mean = float(values.sum()) / values.numel()
    spread = values.std(correction=0).item()
    return {f"{name}/mean": mean, f"{name}/std": spread} | dict(
        zip([f"{name}/q10", f"{name}/q50", f"{name}/q90"], quantiles, strict=True)
    )
