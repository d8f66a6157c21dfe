"""Advantages within groups of any sizes, where a score may be missing.

Legend: K channels, B responses. A score that is NaN is missing: it counts in no mean and its advantage is NaN, as is
that of a response which has nothing to be compared with. `groups` (B,) are numbers from 0, one per prompt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def centre(scores: Float[Tensor, "K B"], groups: Int[Tensor, " B"]) -> Float[Tensor, "K B"]:
    """R − R̄ within the group."""
    counts = _sum(torch.isfinite(scores).to(scores), groups)
    return torch.where(counts > 1, scores - _sum(scores, groups) / counts, torch.nan)


def leave_one_out(scores: Float[Tensor, "K B"], groups: Int[Tensor, " B"]) -> Float[Tensor, "K B"]:
    """R minus the mean of the others of its group (RLOO, Ahmadian et al. 2024)."""
    counts = _sum(torch.isfinite(scores).to(scores), groups)
    return centre(scores, groups) * counts / (counts - 1)


def standardise(scores: Float[Tensor, "K B"], groups: Int[Tensor, " B"], epsilon: float = 0.0) -> Float[Tensor, "K B"]:
    """(R − R̄) / (s + epsilon) within the group, s the sample deviation (GRPO, Shao et al. 2024); 0 where s is rounding.

    Args:
        scores: one row per channel.
        groups: one number per response.
        epsilon: added to the deviation; TRL adds 1e-4, verl 1e-6, this project nothing.
    """
    centred = centre(scores, groups)
    counts = _sum(torch.isfinite(scores).to(scores), groups)
    deviation = (_sum(centred.square(), groups) / (counts - 1)).sqrt()
    largest = scores.new_zeros(len(scores), int(groups.max()) + 1).scatter_reduce(
        1, groups.expand_as(scores), torch.nan_to_num(scores).abs(), "amax"
    )[:, groups]
    varies = deviation > 10 * torch.finfo(scores.dtype).eps * largest
    scaled = centred / torch.where(varies, deviation + epsilon, 1)
    return torch.where(varies | torch.isnan(centred), scaled, 0)


def scale_by_batch(
    scores: Float[Tensor, "K B"], groups: Int[Tensor, " B"], epsilon: float = 0.0
) -> Float[Tensor, "K B"]:
    """(R − R̄) / (s + epsilon), R̄ the group's mean and s the sample deviation of all scores of the channel."""
    everyone = torch.zeros_like(groups)
    counts = _sum(torch.isfinite(scores).to(scores), everyone)
    deviation = (_sum(centre(scores, everyone).square(), everyone) / (counts - 1)).sqrt() + epsilon
    centred = centre(scores, groups)
    return torch.where((deviation > 0) | torch.isnan(centred), centred / deviation, 0)


def group_means(scores: Float[Tensor, "K B"], groups: Int[Tensor, " B"]) -> Float[Tensor, "K B"]:
    """The mean of the group's scores; of all scores where the group has none, and 0 where there are none at all."""
    everyone = torch.zeros_like(groups)
    found = torch.zeros_like(scores)
    for members in (everyone, groups):
        counts = _sum(torch.isfinite(scores).to(scores), members)
        found = torch.where(counts > 0, _sum(scores, members) / counts.clamp(min=1), found)
    return found


def _sum(values: Float[Tensor, "K B"], groups: Int[Tensor, " B"]) -> Float[Tensor, "K B"]:
    """For each response, the sum over its group of what is not NaN."""
    totals = values.new_zeros(len(values), int(groups.max()) + 1)
    return totals.scatter_add(1, groups.expand_as(values), torch.nan_to_num(values))[:, groups]
