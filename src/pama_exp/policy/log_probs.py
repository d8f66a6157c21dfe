"""Log-probabilities of chosen tokens and entropies from logits, without keeping copies of the logits' size.

Legend: n tokens, V words of the vocabulary, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_BLOCK = {"cpu": 2**20}  # elements worked on at a time, so that the passes over them stay in a processor's cache
_KEPT = 2**27  # elements of logits kept for the backward pass (half a gigabyte in float32); beyond, they are recomputed


def token_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "n H"],
    chosen: Int[Tensor, " n"],
    temperature: float,
    vocabulary: int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """log softmax(z / temperature) at the chosen tokens, and the entropy of that distribution, for z = head(hidden).

    Where the logits of all tokens would be large they are computed in parts, and again in the backward pass.
    """
    rows = max(1, _KEPT // vocabulary)
    if len(hidden) <= rows:
        return statistics_of(head(hidden), chosen, temperature)

    def part(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return statistics_of(head(states), tokens, temperature)

    pairs = zip(torch.split(hidden, rows), torch.split(chosen, rows), strict=True)
    log_probs, entropy = zip(*(checkpoint(part, *pair, use_reentrant=False) for pair in pairs), strict=True)
    return torch.cat(log_probs), torch.cat(entropy)


def statistics_of(
    logits: Float[Tensor, "n V"], chosen: Int[Tensor, " n"], temperature: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """log pₐ and H = −Σ p log p for p = softmax(logits / temperature), in float32."""
    log_probs, entropy = _Statistics.apply(logits, chosen, temperature)  # type: ignore[no-untyped-call]
    return log_probs, entropy


class _Statistics(torch.autograd.Function):
    """∂ log pₐ / ∂z = 1ₐ − p;  ∂H / ∂z = −p (log p + H);  both divided by the temperature.

    Only the logits and their log-sum-exp are kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        normaliser = logits.new_empty(len(logits), dtype=torch.float32)
        entropy = torch.empty_like(normaliser)
        for rows in _blocks(logits):
            scaled = logits[rows].float() / temperature
            top = scaled.amax(-1, keepdim=True)
            scaled.sub_(top)
            weights = scaled.exp()
            total = weights.sum(-1)
            normaliser[rows] = total.log() + top[:, 0]
            entropy[rows] = total.log() - weights.mul_(scaled).sum(-1) / total
        picked = logits.gather(-1, chosen[:, None])[:, 0].float() / temperature
        ctx.save_for_backward(logits, chosen, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked - normaliser, entropy

    @staticmethod
    def backward(ctx: Any, of_log_prob: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor, None, None]:
        logits, chosen, normaliser, entropy = ctx.saved_tensors
        picked = torch.zeros_like(normaliser) if of_log_prob is None else of_log_prob / ctx.temperature
        gradient = torch.empty_like(logits)
        for rows in _blocks(logits):
            log_p = (logits[rows].float() / ctx.temperature).sub_(normaliser[rows, None])
            p, factor = log_p.exp(), -picked[rows, None]
            if of_entropy is not None:
                log_p = log_p.clamp_(min=torch.finfo(torch.float32).min)  # p log p is 0 at p = 0
                factor = factor - of_entropy[rows, None] / ctx.temperature * log_p.add_(entropy[rows, None])
            gradient[rows] = p.mul_(factor).scatter_add_(-1, chosen[rows, None], picked[rows, None])
        return gradient, None, None


def _blocks(logits: Float[Tensor, "n V"]) -> list[slice]:
    size = max(1, _BLOCK.get(logits.device.type, 2**26) // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]
