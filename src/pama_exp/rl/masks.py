"""Statistics over valid tokens only; values on padding, NaN included, have no effect.

Legend: B responses, T response tokens; masks are True on the tokens the policy chose, padded on the right.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def masked_mean(
    values: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"], dim: int | tuple[int, ...] | None = None
) -> Float[Tensor, "*reduced"]:
    """Mean over the valid tokens: Σ m v / Σ m over `dim` (all dimensions if None); 0 where no token is valid."""
    count = mask.expand_as(values).sum(dim).clamp(min=1)
    return torch.where(mask, values, 0).sum(dim) / count


def masked_variance(
    values: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"], dim: int | tuple[int, ...] | None = None
) -> Float[Tensor, "*reduced"]:
    """Population variance over the valid tokens: Σ m (v − v̄)² / Σ m over `dim` (all if None); 0 if none is valid."""
    mean = masked_mean(values, mask, dim)
    if dim is not None:
        for axis in sorted(axis % values.ndim for axis in ((dim,) if isinstance(dim, int) else dim)):
            mean = mean.unsqueeze(axis)
    return masked_mean((values - mean).square(), mask, dim)


def last_token(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Index of each response's last valid token; 0 for a response that has none."""
    return (mask.sum(1) - 1).clamp(min=0)
