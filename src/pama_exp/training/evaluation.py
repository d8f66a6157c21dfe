"""Evaluation of a policy on held-out prompts: its responses and their rewards."""

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
    """Score every response by every objective's scorer (proxy) and by its gold program, if it has one.

    Args:
        objectives: the objectives to score by.
        rollouts: batches of prompts with one response each.

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
    """The results of an evaluation over M prompts: proxy and gold rewards (M,) by objective, lengths (M,) and texts."""

    proxy: Mapping[str, Tensor]
    gold: Mapping[str, Tensor]
    lengths: Tensor
    prompts: Sequence[str]
    responses: Sequence[str]

    def means(self) -> dict[str, dict[str, float | None]]:
        """Mean rewards, {objective: {gold, proxy}}; gold is None without a gold program."""
        return {
            name: {"gold": self.gold[name].mean().item() if name in self.gold else None, "proxy": proxy.mean().item()}
            for name, proxy in self.proxy.items()
        }

    def calibration(self) -> dict[str, dict[str, dict[str, float] | None]]:
        """Mean and deviation of the rewards, {objective: {gold, proxy: {mean, deviation}}}, as units of comparisons."""
        return {
            name: {"gold": _moments(self.gold[name]) if name in self.gold else None, "proxy": _moments(proxy)}
            for name, proxy in self.proxy.items()
        }

    def metrics(self) -> dict[str, float]:
        """The evaluation's metrics by their names in the record."""
        values = {"eval/response/length": self.lengths.float().mean().item()}
        for kind, table in (("proxy", self.proxy), ("gold", self.gold)):
            for name, rewards in table.items():
                values |= distribution(f"eval/{kind}/{name}", rewards)
        return values

    def rows(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The first `limit` generations (None: all), each a mapping of prompt, response and scores."""
        tables = {f"proxy/{k}": v for k, v in self.proxy.items()} | {f"gold/{k}": v for k, v in self.gold.items()}
        return [
            {"prompt": self.prompts[i], "response": self.responses[i], **{k: v[i].item() for k, v in tables.items()}}
            for i in range(len(self.prompts))[:limit]
        ]


def _moments(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "deviation": values.std(correction=0).item()}


def distribution(name: str, values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quantiles of (B,) rewards, as metrics whose names begin with `name`."""
    quantiles = torch.quantile(values.float(), torch.tensor([0.1, 0.5, 0.9])).tolist()
    mean = float(values.sum()) / values.numel()
    spread = values.std(correction=0).item()
    return {f"{name}/mean": mean, f"{name}/std": spread} | dict(
        zip([f"{name}/q10", f"{name}/q50", f"{name}/q90"], quantiles, strict=True)
    )
