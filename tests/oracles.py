"""Slow and obvious versions of the mathematics, written from the definitions and sharing no code with the package."""

from __future__ import annotations

import itertools
import math

import numpy as np
import quadprog
import torch
from torch import Tensor


def least_magnitude_on_simplex(values: np.ndarray, steps: int = 2000) -> float:
    """min over c in the simplex of |Σ c A|, by searching every edge of the simplex.

    The combination is linear, so its range over the simplex is reached on the edges.
    """
    shares = np.linspace(0, 1, steps + 1)
    candidates = [abs(float(v)) for v in values]
    for a, b in itertools.combinations(values, 2):
        candidates.append(float(np.abs(shares * a + (1 - shares) * b).min()))
    return min(candidates)


def min_norm_on_simplex_by_qp(gramian: np.ndarray, ridge: float = 1e-11) -> np.ndarray:
    """argmin wᵀGw over the simplex, by quadprog; the ridge (relative to G's largest entry) makes it strictly convex."""
    count = len(gramian)
    scale = float(np.abs(gramian).max()) or 1.0
    constraints = np.vstack([np.ones(count), np.eye(count)]).T
    bounds = np.r_[1.0, np.zeros(count)]
    return quadprog.solve_qp(gramian / scale + ridge * np.eye(count), np.zeros(count), constraints, bounds, 1)[0]


def ppo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """−mean over valid tokens of min(u A, clip(u, 1−ε, 1+ε) A), one token at a time; all tensors (B, T)."""
    terms = []
    for b, t in mask.nonzero().tolist():
        ratio = torch.exp(log_probs[b, t] - old_log_probs[b, t])
        advantage = advantages[b, t]
        inside = 1 - clip <= ratio.item() <= 1 + clip
        bounded = ratio if inside else torch.full_like(ratio, 1 + clip if ratio.item() > 1 else 1 - clip)
        plain, pessimistic = ratio * advantage, bounded * advantage
        terms.append(plain if plain.item() <= pessimistic.item() else pessimistic)
    connected = 0.0 * log_probs.sum()  # a gradient of zero where every token is clipped
    return connected - torch.stack(terms).mean() if terms else connected


def whitened_responses(values: Tensor, mask: Tensor) -> Tensor:
    """(A − mean) / deviation of the responses' means over their valid tokens; (B,T), zeros on padding."""
    rows = [(b, values[b][mask[b]]) for b in range(len(values)) if bool(mask[b].any())]
    means = np.array([row.mean().item() for _, row in rows])
    result = torch.zeros_like(values)
    for b, row in rows:
        result[b][mask[b]] = (row - float(means.mean())) / float(means.std(ddof=1))
    return result


def gae_double_sum(rewards: Tensor, values: Tensor, length: int, gamma: float, lam: float) -> list[float]:
    """A_t = Σ_k (γλ)^k δ_{t+k} for one response of `length` tokens, the value after the last being 0."""
    reward, value = rewards.double().tolist(), [*values.double().tolist()[:length], 0.0]
    deltas = [reward[t] + gamma * value[t + 1] - value[t] for t in range(length)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, length)) for t in range(length)]


def hypervolume_by_inclusion_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume of the union of the boxes [reference, point]."""
    boxes = [p for p in points if (p > reference).all()]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            total += (-1) ** (size + 1) * float(np.prod(np.min(chosen, axis=0) - reference))
    return total


def igd_plus(points: np.ndarray, front: np.ndarray) -> float:
    """Mean over the front of the least shortfall."""
    return float(np.mean([min(math.dist(np.maximum(f - p, 0), np.zeros(len(f))) for p in points) for f in front]))


def epsilon(points: np.ndarray, front: np.ndarray) -> float:
    """Least lift of all points that covers the front."""
    return max(min(max(f - p) for p in points) for f in front)


def nondominated(points: np.ndarray) -> list[bool]:
    """Dominated: another is nowhere worse and somewhere better."""
    return [not any((q >= p).all() and (q > p).any() for q in points) for p in points]


def categorical_kl(distribution: np.ndarray, reference: np.ndarray) -> float:
    """KL(p‖q) of two categorical distributions, in nats."""
    return float(sum(p * math.log(p / q) for p, q in zip(distribution, reference, strict=True)))
