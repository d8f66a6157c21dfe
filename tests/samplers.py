"""Inputs on which mathematics goes wrong: ragged masks, ties, vanishing, huge, opposite and dependent objectives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ragged_mask(responses: int, tokens: int, seed: int = 0, empty_row: bool = True) -> Tensor:
    """(B,T) right-padded, one response full and, if there is room, one without any valid token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (responses,), generator=generator)
    lengths[0] = tokens
    if empty_row and responses > 1:
        lengths[-1] = 0
    return torch.arange(tokens) < lengths[:, None]


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _identical(shape: tuple[int, ...], seed: int) -> Tensor:
    return _normal(shape[1:], seed).expand(shape).clone()


def _opposite(shape: tuple[int, ...], seed: int) -> Tensor:
    signs = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(shape[0])])
    return _identical(shape, seed) * signs.reshape(-1, *[1] * (len(shape) - 1))


def _mixed_scale(shape: tuple[int, ...], seed: int) -> Tensor:
    scales = torch.tensor([10.0 ** (8 - 8 * i) for i in range(shape[0])]).clamp(min=1e-12)
    return _normal(shape, seed) * scales.reshape(-1, *[1] * (len(shape) - 1))


# Leading dimension: objectives. Each takes (shape, seed).
ADVANTAGES: dict[str, Callable[[tuple[int, ...], int], Tensor]] = {
    "normal": _normal,
    "all positive": lambda shape, seed: _normal(shape, seed).abs(),
    "all negative": lambda shape, seed: -_normal(shape, seed).abs(),
    "zero": lambda shape, seed: torch.zeros(shape),
    "constant": lambda shape, seed: torch.full(shape, 3.0),
    "huge": lambda shape, seed: 1e8 * _normal(shape, seed),
    "tiny": lambda shape, seed: 1e-12 * _normal(shape, seed),
    "identical": _identical,
    "opposite": _opposite,
    "mixed scale": _mixed_scale,
    "one zero": lambda shape, seed: torch.cat([_normal(shape, seed)[1:], torch.zeros(1, *shape[1:])]),
}


def _stationary(shape: tuple[int, int], seed: int) -> Tensor:
    gradients = _normal(shape, seed)
    gradients[-1] = -gradients[:-1].sum(0)  # some convex combination vanishes
    return gradients


def _rank_deficient(shape: tuple[int, int], seed: int) -> Tensor:
    return _normal((shape[0], 2), seed) @ _normal((2, shape[1]), seed + 1)


# (N, parameters) gradients.
GRADIENTS: dict[str, Callable[[tuple[int, int], int], Tensor]] = {
    **ADVANTAGES,
    "stationary": _stationary,
    "rank deficient": _rank_deficient,
    "one direction": lambda shape, seed: _normal((shape[0], 1), seed) @ _normal((1, shape[1]), seed + 1),
}
