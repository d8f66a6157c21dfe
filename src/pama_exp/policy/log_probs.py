"""Log-probabilities of chosen tokens and entropies, without holding rows × vocabulary numbers more than once.

Legend: n tokens, V words of the vocabulary, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_BLOCK = {"cpu": 2**20}  # elements worked on at a time, so that the passes over them stay in a processor's cache
KEPT = 2**27  # elements of logits kept for the backward pass (half a gigabyte in float32); beyond, they are recomputed
PART = 2**25  # elements of what is not kept, which are held at a time: gradients of logits, logits without a graph


def token_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "n H"],
    chosen: Int[Tensor, " n"],
    temperature: float,
    vocabulary: int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """log softmax(z / temperature) at the chosen tokens, and the entropy of that distribution, for z = head(hidden).

    Of a linear output layer the logits are kept for the backward pass up to `KEPT` elements, and the gradient with
    respect to them takes their place. What is more is computed in parts of `PART` elements, and again backwards, as is
    every large pass through another head.
    """
    if isinstance(head, nn.Linear) and _is_one_product(head, hidden):
        keep = torch.is_grad_enabled() and len(hidden) * vocabulary <= KEPT
        weight = head.weight.view_as(head.weight)  # with a node of its own, which a backward pass may leave out
        log_probs, entropy = _OfLinear.apply(hidden, weight, head.bias, chosen, temperature, keep)  # type: ignore[no-untyped-call]
        return log_probs, entropy
    rows = _rows(PART, vocabulary)
    if len(hidden) <= rows:
        return statistics_of(head(hidden), chosen, temperature)

    def part(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return statistics_of(head(states), tokens, temperature)

    pairs = zip(torch.split(hidden, rows), torch.split(chosen, rows), strict=True)
    pieces, entropies = zip(*(checkpoint(part, *pair, use_reentrant=False) for pair in pairs), strict=True)
    return torch.cat(pieces), torch.cat(entropies)


def statistics_of(
    logits: Float[Tensor, "n V"], chosen: Int[Tensor, " n"], temperature: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """log pₐ and H = −Σ p log p for p = softmax(logits / temperature), in float32."""
    log_probs, entropy = _Statistics.apply(logits, chosen, temperature)  # type: ignore[no-untyped-call]
    return log_probs, entropy


class _Statistics(torch.autograd.Function):
    """Only the logits, their log-sum-exp and the entropy are kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        picked, normaliser, entropy = _forward(logits, chosen, temperature)
        ctx.save_for_backward(logits, chosen, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked - normaliser, entropy

    @staticmethod
    def backward(ctx: Any, of_log_prob: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor, None, None]:
        logits, *kept = ctx.saved_tensors
        return _gradient(logits, kept, (of_log_prob, of_entropy), ctx.temperature, torch.empty_like(logits)), None, None


class _OfLinear(torch.autograd.Function):
    """The same of z = W h + b: ∂W = Σ (∂z)ᵀ h, ∂h = ∂z W.

    ∂z takes the place of z where the graph is not wanted again, and is else made in parts. ∂W is left out where it is
    not asked for, as by the gradients with respect to the hidden states alone.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chosen: Tensor, temperature: float, keep: bool
    ) -> tuple[Tensor, Tensor]:
        logits = functional.linear(hidden, weight, bias) if keep else None
        parts = [slice(0, len(hidden))] if keep else list(_parts(len(hidden), len(weight)))
        pieces = []
        for rows in parts:
            part = functional.linear(hidden[rows], weight, bias) if logits is None else logits
            pieces.append(_forward(part, chosen[rows], temperature))
        picked, normaliser, entropy = (torch.cat(each) for each in zip(*pieces, strict=True))
        ctx.save_for_backward(hidden, weight, bias, logits, chosen, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked - normaliser, entropy

    @staticmethod
    def backward(
        ctx: Any, of_log_prob: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, bias, logits, *kept = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight: Tensor | None = None
        wants_weight = ctx.needs_input_grad[1] and torch._C._will_engine_execute_node(ctx.next_functions[1][0])
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        is_last = not torch._C._autograd._get_current_graph_task_keep_graph()
        parts = [slice(0, len(hidden))] if logits is not None and is_last else _parts(len(hidden), len(weight))
        for rows in parts:
            part = functional.linear(hidden[rows], weight, bias) if logits is None else logits[rows]
            above = [None if each is None else each[rows] for each in (of_log_prob, of_entropy)]
            place = part if logits is None or is_last else torch.empty_like(part)
            gradient = _gradient(part, [each[rows] for each in kept], above, ctx.temperature, place)
            if of_hidden is not None:
                of_hidden[rows] = gradient @ weight
            if wants_weight:
                of_weight = _plus_product(of_weight, gradient.T, hidden[rows])
            if of_bias is not None:
                of_bias += gradient.sum(0)
        return of_hidden, of_weight, of_bias, None, None, None


def _plus_product(
    total: Float[Tensor, "V H"] | None, left: Float[Tensor, "V n"], right: Float[Tensor, "n H"]
) -> Float[Tensor, "V H"]:
    """`total` + left right, in its place; some words at a time, so that no second matrix of its size is held."""
    if total is None:
        return left @ right
    for words in _parts(len(total), right.shape[1]):
        total[words] += left[words] @ right
    return total


def _forward(logits: Tensor, chosen: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) zₐ, log Σ exp z, and the entropy, of z = logits / temperature."""
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
    return logits.gather(-1, chosen[:, None])[:, 0].float() / temperature, normaliser, entropy


def _gradient(
    logits: Tensor, kept: Sequence[Tensor], above: Sequence[Tensor | None], temperature: float, place: Tensor
) -> Float[Tensor, "n V"]:
    """∂ log pₐ / ∂z = 1ₐ − p;  ∂H / ∂z = −p (log p + H);  both divided by the temperature.

    `kept` is what of the forward pass is needed, `above` the gradients from above; written to `place`, which may be the
    logits.
    """
    (chosen, normaliser, entropy), (of_log_prob, of_entropy) = kept, above
    picked = torch.zeros_like(normaliser) if of_log_prob is None else of_log_prob / temperature
    for rows in _blocks(logits):
        log_p = (logits[rows].float() / temperature).sub_(normaliser[rows, None])
        p, factor = log_p.exp(), -picked[rows, None]
        if of_entropy is not None:
            log_p = log_p.clamp_(min=torch.finfo(torch.float32).min)  # p log p is 0 at p = 0
            factor = factor - of_entropy[rows, None] / temperature * log_p.add_(entropy[rows, None])
        place[rows] = p.mul_(factor).scatter_add_(-1, chosen[rows, None], picked[rows, None])
    return place


def _is_one_product(head: nn.Linear, hidden: Tensor) -> bool:
    """Whether calling the head is one product with a weight that is wholly here, and nothing listens to the call."""
    return (
        type(head) is nn.Linear
        and not (head._forward_hooks or head._forward_pre_hooks or isinstance(head.weight, DTensor))
        and not torch.is_autocast_enabled(hidden.device.type)
    )


def _rows(elements: int, vocabulary: int) -> int:
    return max(1, elements // vocabulary)


def _parts(count: int, vocabulary: int) -> Iterator[slice]:
    rows = _rows(PART, vocabulary)
    return (slice(start, start + rows) for start in range(0, max(1, count), rows))


def _blocks(logits: Float[Tensor, "n V"]) -> Iterator[slice]:
    rows = _rows(_BLOCK.get(logits.device.type, 2**26), logits.shape[-1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))
