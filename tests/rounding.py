"""How far apart two right answers may be: it follows from the arithmetic, not from one processor's order of sums."""

from __future__ import annotations

import torch


def rounding(dtype: torch.dtype, terms: int, scale: float = 1.0) -> float:
    """The most by which two sums of the same numbers, or of products of them, differ that are added in other orders.

    Each is off by at most n·u·Σ|x|, where u = eps/2 is half the distance from 1 to the next number (Higham 2002,
    "Accuracy and stability of numerical algorithms", section 4.2); a function that computes sums of sums has the sum
    of their lengths.

    Args:
        dtype: what is added, and of the lower precision where the two differ.
        terms: n, how many numbers are added, one after another, on the longest way to a result.
        scale: Σ|x|, the magnitudes added; for a mean, the largest magnitude.
    """
    return terms * torch.finfo(dtype).eps * scale
