"""One step of alignment from its equations: response by response and token by token, in float64.

Nothing here is batched, padded or masked, and nothing is imported from the package. Lists are indexed as the equations
are: [i] objective, [b] response, [t] token.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Tokens = list[list[float]]  # [b][t]


@dataclass(frozen=True)
class Settings:
    """What the equations leave open."""

    gamma: float = 0.9
    lam: float = 0.6
    temperature: float = 0.7
    clip: float = 0.1
    value_clip: float = 0.05
    value_coefficient: float = 0.4
    entropy_coefficient: float = 0.03
    kl_coefficient: float = 0.2
    kl_estimator: str = "k1"
    kl_in_loss: bool = False
    kl_combined: bool = False
    scale_combined: bool = False
    max_grad_norm: float = 0.5
    rule: str = "linear"
    weights: tuple[float, ...] = (0.3, 0.7)
    learning_rate: float = 5e-4
    value_learning_rate: float = 2e-2
    weight_decay: float = 0.1


@dataclass
class Said:
    """What a policy says of each response, with gradients: log-probabilities [b](t), entropies [b](t), values [i][b](t)."""

    log_probs: list[Tensor]
    entropies: list[Tensor]
    values: list[list[Tensor]]


@dataclass
class Collected:
    """All that is fixed before the first update."""

    log_probs: Tokens
    reference: Tokens
    values: list[Tokens]
    kl: Tokens
    advantages: list[Tokens]
    returns: list[Tokens]
    combined: list[Tokens]


def read(model: nn.Module, heads: nn.Linear, responses: Sequence[tuple[Tensor, Tensor]], temperature: float) -> Said:
    """Each (prompt, response) by itself, through the model's own forward pass."""
    said = Said([], [], [[] for _ in range(heads.out_features)])
    for prompt, response in responses:
        ids = torch.cat([prompt, response])[None]
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        predicting = slice(len(prompt) - 1, -1)
        log_p = torch.log_softmax(output.logits[0, predicting] / temperature, -1)
        said.log_probs.append(torch.stack([row[token] for row, token in zip(log_p, response, strict=True)]))
        said.entropies.append(torch.stack([-(row.exp() * row).sum() for row in log_p]))
        states = output.hidden_states[-1][0, predicting]
        for i, values in enumerate(said.values):
            values.append(torch.stack([state @ heads.weight[i] + heads.bias[i] for state in states]))
    return said


def kl_of(log_prob: Any, reference: float, estimator: str) -> Any:
    """One token's estimate of KL(policy ‖ reference) (Schulman 2020); of a float or a tensor."""
    ratio = log_prob - reference
    inverse = math.exp(-ratio) if isinstance(ratio, float) else torch.exp(-ratio)
    return {"k1": ratio, "k2": ratio**2 / 2, "k3": inverse - 1 + ratio}[estimator]


def whitened(rows: Tokens) -> Tokens:
    """(A − mean) / deviation over all tokens of one objective."""
    every = [a for row in rows for a in row]
    mean = sum(every) / len(every)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every))
    return [[(a - mean) / deviation for a in row] for row in rows]


def combined(advantages: Sequence[float], settings: Settings) -> list[float]:
    """One token's advantages by objective → one per surrogate loss."""
    if settings.rule == "linear":
        return [sum(w * a for w, a in zip(settings.weights, advantages, strict=True))]
    if settings.rule == "pama":  # of max(A, 0) / p the least decides
        kept = [max(a, 0.0) for a in advantages]
        return [kept[min(range(len(kept)), key=lambda i: kept[i] / settings.weights[i])]]
    return list(advantages)  # weighed as losses


def collect(policy: Said, reference: Said, rewards: Sequence[Sequence[float]], settings: Settings) -> Collected:
    """Rewards [i][b] → advantages by objective, returns, and what the solver makes of the advantages."""
    log_probs = [row.tolist() for row in policy.log_probs]
    others = [row.tolist() for row in reference.log_probs]
    kl = [
        [kl_of(p, q, settings.kl_estimator) for p, q in zip(*rows, strict=True)]
        for rows in zip(log_probs, others, strict=True)
    ]
    values = [[row.tolist() for row in rows] for rows in policy.values]
    advantages: list[Tokens] = []
    returns: list[Tokens] = []
    for i, row in enumerate(rewards):
        raw: Tokens = []
        for b, reward in enumerate(row):
            last = len(kl[b]) - 1
            charge = 0.0 if settings.kl_in_loss or settings.kl_combined else settings.kl_coefficient
            earned = [(reward if t == last else 0.0) - charge * kl[b][t] for t in range(last + 1)]
            value = [*values[i][b], 0.0]
            deltas = [earned[t] + settings.gamma * value[t + 1] - value[t] for t in range(last + 1)]
            decay = settings.gamma * settings.lam
            raw.append([sum(decay ** (s - t) * deltas[s] for s in range(t, last + 1)) for t in range(last + 1)])
        returns.append([[a + v for a, v in zip(*rows, strict=True)] for rows in zip(raw, values[i], strict=True)])
        advantages.append(whitened(raw))
    tokens = [[combined([a[b][t] for a in advantages], settings) for t in range(len(kl[b]))] for b in range(len(kl))]
    losses = [[[token[k] for token in row] for row in tokens] for k in range(len(tokens[0][0]))]
    return Collected(log_probs, others, values, kl, advantages, returns, losses)


def to_come(kl: Tokens) -> Tokens:
    """The KL from each token on, less what the responses that have such a token pay on average."""
    left = [[sum(row[t:]) for t in range(len(row))] for row in kl]
    longest = max(map(len, left))
    means = [sum(reach) / len(reach) for t in range(longest) if (reach := [row[t] for row in left if len(row) > t])]
    return [[value - means[t] for t, value in enumerate(row)] for row in left]


def mini_batch_loss(
    said: Said, rows: Iterable[int], seen: Collected, settings: Settings
) -> tuple[Tensor, dict[str, float]]:
    """The scalar that is minimised, of the responses `rows`; `said` holds all responses under the present parameters."""
    rows = list(rows)
    count = sum(len(seen.kl[b]) for b in rows)
    surrogates, value_losses = [0.0] * len(seen.combined), [0.0] * len(seen.returns)
    entropy, kl, moved, charged, cost = 0.0, 0.0, 0.0, 0.0, to_come(seen.kl)
    for b in rows:
        for t in range(len(seen.kl[b])):
            log_prob, old = said.log_probs[b][t], seen.log_probs[b][t]
            ratio = torch.exp(log_prob - old)
            held = min(max(ratio.item(), 1 - settings.clip), 1 + settings.clip)
            for k, advantages in enumerate(seen.combined):
                a = advantages[b][t]
                # Where the clipped term is the smaller it is a constant; at a tie inside the clip both are the ratio's.
                surrogates[k] = surrogates[k] - (ratio * a if ratio.item() * a <= held * a else held * a) / count
            a = -settings.kl_coefficient * cost[b][t]
            charged = charged - (ratio * a if ratio.item() * a <= held * a else held * a) / count
            for i, returns in enumerate(seen.returns):
                value, before = said.values[i][b][t], seen.values[i][b][t]
                near = before + (value - before).clamp(-settings.value_clip, settings.value_clip)
                worse = torch.maximum((value - returns[b][t]) ** 2, (near - returns[b][t]) ** 2)
                value_losses[i] = value_losses[i] + worse / 2 / count
            entropy = entropy + said.entropies[b][t] / count
            kl = kl + kl_of(log_prob, seen.reference[b][t], settings.kl_estimator) / count
            moved += (math.exp(log_prob.item() - old) - 1 - (log_prob.item() - old)) / count
    shares = settings.weights if len(surrogates) > 1 else (1.0,)
    if settings.scale_combined:
        signal = [
            sum(w * seen.combined[k][b][t] for k, w in enumerate(shares)) for b in rows for t in range(len(seen.kl[b]))
        ]
        mean = sum(signal) / count
        deviation = math.sqrt(sum((s - mean) ** 2 for s in signal) / count)
        shares = tuple(w / deviation for w in shares)
    loss = sum(w * surrogate for w, surrogate in zip(shares, surrogates, strict=True))
    loss = loss + settings.value_coefficient * sum(value_losses) - settings.entropy_coefficient * entropy
    if settings.kl_in_loss:
        loss = loss + settings.kl_coefficient * kl
    if settings.kl_combined:
        loss = loss + charged
    logs = {
        "policy/loss": sum(s.item() for s in surrogates) / len(surrogates),
        "value/loss": sum(v.item() for v in value_losses),
        "policy/entropy": entropy.item(),
        "policy/approx_kl": moved,
    }
    return loss, logs


def gradients(
    model: nn.Module, heads: nn.Linear, loss: Tensor, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """By parameter, clipped to `max_grad_norm`: the model's together and the heads' together; and both norms before."""
    groups = {"model": dict(model.named_parameters()), "heads": dict(heads.named_parameters())}
    parameters = [p for group in groups.values() for p in group.values()]
    found = iter(torch.autograd.grad(loss, parameters))
    result, norms = {}, {}
    for label, group in groups.items():
        rows = {name: next(found) for name in group}
        norms[label] = math.sqrt(sum(float((g**2).sum()) for g in rows.values()))
        share = min(1.0, settings.max_grad_norm / norms[label])
        result |= {f"{label}.{name}": share * g for name, g in rows.items()}
    return result, norms


class AdamW:
    """Loshchilov & Hutter 2019, algorithm 2, with β = (0.9, 0.95)."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.steps = settings, 0
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def step(self, parameters: dict[str, Tensor], slopes: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the parameters become."""
        self.steps += 1
        after = {}
        for name, slope in slopes.items():
            s = self.settings
            rate = s.value_learning_rate if name.startswith("heads.") else s.learning_rate
            first = 0.9 * self.first.get(name, 0.0) + 0.1 * slope
            second = 0.95 * self.second.get(name, 0.0) + 0.05 * slope**2
            self.first[name], self.second[name] = first, second
            size = (second / (1 - 0.95**self.steps)).sqrt() + 1e-8
            after[name] = (1 - rate * s.weight_decay) * parameters[name] - rate * first / (1 - 0.9**self.steps) / size
        return after


def at(model: nn.Module, parameters: dict[str, Tensor], prefix: str) -> nn.Module:
    """A copy with these parameters, in float64."""
    made = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(parameters[f"{prefix}.{name}"])
    return made
