"""The Gramian of the surrogates' gradients: of which gradients, in how much memory, over however many processes.

Legend: K surrogate losses, M combinations of them, B responses, T response tokens, H hidden width, d parameters,
m numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor, nn

from pama_exp.data.streams import random_state
from pama_exp.errors import UserError
from pama_exp.parallel import collectives
from pama_exp.policy.policy import Policy
from pama_exp.policy.sharding import blocks_of

Target = Literal["full", "adapter", "last-layer", "sketch", "hidden", "advantages"]
_CHUNK = 2**22  # coordinates sketched at a time, so that their random places take little memory


@dataclass(frozen=True)
class GramianSettings:
    """What a solver's `gramian("parameters")` means, and what it may cost.

    `target`: full, every trained parameter of the policy; adapter, those of its LoRA adapters; last-layer, those of
    the last transformer block (the backward passes end there); sketch, every trained parameter by way of
    `sketch_dimension` random combinations of them, an unbiased estimate with a relative error of about 1/√m; hidden,
    the last shared hidden state (MGDA-UB, which asks for it whatever is set here); advantages, no gradients at all, see
    `advantage_gramian`: the one backward pass is the update's.

    `hold`: all, K gradients on the device; host, K gradients in main memory and one on the device; one, a single
    gradient at a time, for K(K+1)/2 backward passes instead of K.
    """

    target: Target = "full"
    hold: Literal["all", "host", "one"] = "all"
    sketch_dimension: int = 4096


@dataclass(frozen=True)
class Terms:
    """The parts of one (micro-)batch's loss, with their graph."""

    surrogates: Tensor  # (K,)
    rest: Tensor  # () value losses, KL and entropy: outside the solver's reach
    log_probs: Tensor  # (B, T) through which alone the surrogates depend on the policy
    hidden: Tensor  # (B, T, H)
    slopes: Callable[[], Tensor]  # (K, B, T) ∂Lᵏ / ∂ log π
    logs: Mapping[str, Tensor]  # detached shares of the mini-batch's token means


class MicroBatches:
    """Iterating gives the terms of each micro-batch; a single one is computed once and kept.

    Args:
        parts: the rows of each.
        compute: from rows to terms.
        keep: False where a graph serves one backward pass only (FSDP2 frees what it has put together).
    """

    def __init__(self, parts: Sequence[Tensor], compute: Callable[[Tensor], Terms], keep: bool = True) -> None:
        self.parts, self.compute = parts, compute
        self.is_single = keep and len(parts) == 1
        self._kept: Terms | None = None

    def __call__(self) -> Iterator[Terms]:
        """The terms in order; asked again, a single one is the same and several are computed anew."""
        if not self.is_single:
            return (self.compute(part) for part in self.parts)
        if self._kept is None:
            self._kept = self.compute(self.parts[0])
        return iter([self._kept])


def hidden_gramian(terms: MicroBatches) -> Tensor:
    """G_kl = ⟨∂Lᵏ/∂h, ∂Lˡ/∂h⟩ for the last hidden states h that the surrogates share (Sener & Koltun 2018).

    Token t's log-probability depends on h_t alone, hence ∂Lᵏ/∂h_t = (∂Lᵏ/∂log π_t) ∂log π_t/∂h_t, and

    G_kl = Σ_t (∂Lᵏ/∂log π_t) (∂Lˡ/∂log π_t) ‖∂log π_t/∂h_t‖²

    which takes one pass through the output layer, however many losses there are.
    """
    whole: Tensor | None = None
    with torch.enable_grad():
        for part in terms():
            (states,) = torch.autograd.grad(part.log_probs.sum(), part.hidden, retain_graph=terms.is_single)
            slopes = part.slopes()
            piece = torch.einsum("kbt,lbt,bt->kl", slopes, slopes, states.float().square().sum(-1))
            whole = piece if whole is None else whole + piece
    assert whole is not None
    return collectives.total(whole)


def advantage_gramian(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """G_kl = mean over valid tokens of (Aᵏ − Āᵏ)(Aˡ − Āˡ), of (K,B,T) advantages.

    Where the gradients ∇ log π of tokens are orthonormal it is the Gramian of ∇Lᵏ = −mean(Aᵏ ∇ log π) up to a factor;
    a constant part of an advantage has no expected gradient and is left out. A combination with ⟨Aᵏ, A⟩ ≥ 0 for every
    k lowers no objective to first order of a step in the distribution over tokens. Free: no pass is made.
    """
    valid = advantages[:, response_mask].double()
    if valid.shape[1] == 0:
        return advantages.new_zeros(len(advantages), len(advantages))
    centred = valid - valid.mean(1, keepdim=True)
    return (centred @ centred.T / valid.shape[1]).to(advantages)


def parameter_gramian(terms: MicroBatches, policy: Policy, count: int, settings: GramianSettings, seed: int) -> Tensor:
    """G_kl = ⟨∇Lᵏ, ∇Lˡ⟩ with respect to the parameters that the settings name.

    Gradients of micro-batches and of replicas are added up before their products are taken; products of shards are
    added up.

    Args:
        terms: this process's micro-batches.
        policy: on whose parameters they depend.
        count: K.
        settings: which parameters, in how much memory.
        seed: of the sketch.
    """
    parameters = selected(policy, settings.target)
    sharded = collectives.is_sharded(parameters)
    if settings.target == "sketch":
        sketch = CountSketch(
            settings.sketch_dimension, random_state(seed, collectives.rank() if sharded else 0, "sketch")
        )
        rows = torch.zeros(count, settings.sketch_dimension, device=parameters[0].device)
        for k, pieces in _gradients(terms, torch.eye(count), parameters, policy, in_turn=sharded):
            sketch.add(pieces, rows[k])
            pieces.clear()  # before the next is computed
        rows = collectives.total(rows)
        return rows @ rows.T
    if settings.hold == "one":
        return _polarised(terms, parameters, policy, count)
    sizes = [collectives.local(parameter).numel() for parameter in parameters]
    device = torch.device("cpu") if settings.hold == "host" else collectives.local(parameters[0]).device
    rows = torch.zeros(count, sum(sizes), device=device)
    for k, pieces in _gradients(terms, torch.eye(count), parameters, policy, in_turn=sharded):
        for place, piece in zip(torch.split(rows[k], sizes), pieces, strict=True):
            place.add_(piece.flatten().to(device))
        pieces.clear()  # before the next is computed
        del piece
    if not sharded:
        collectives.add_up(list(rows))
    products = rows @ rows.T
    return (collectives.total(products) if sharded else products).to(parameters[0].device)


def billed_passes(count: int, settings: GramianSettings) -> int:
    """Backward passes through the trunk that `parameter_gramian` makes for K = `count` losses."""
    return count * (count + 1) // 2 if settings.hold == "one" and settings.target != "sketch" else count


def selected(policy: Policy, target: str) -> list[nn.Parameter]:
    """The trained parameters of the policy that the target names.

    Raises:
        UserError: if there are none.
    """
    if target == "last-layer":
        chosen = [parameter for block in blocks_of(policy.model)[-1:] for parameter in trainable(block)]
    elif target == "adapter":
        chosen = [p for name, p in policy.model.named_parameters() if "lora_" in name and p.requires_grad]
    else:
        chosen = policy.actor_parameters()
    if not chosen:
        raise UserError(
            f"training.gramian.target={target}: the policy has no such trained parameters.",
            "Set training.gramian.target=full, or choose an adapter that has some.",
        )
    return chosen


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [p for p in module.parameters() if p.requires_grad]


class CountSketch:
    """S g for a random S with one ±1 in each column, so that E[⟨S g, S h⟩] = ⟨g, h⟩ (Charikar et al. 2002).

    Var ≤ (‖g‖² ‖h‖² + ⟨g, h⟩²) / m;  S is never held: its columns are drawn again from the seed as they are needed.

    Args:
        dimension: m.
        seed: of S.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension, self.seed = dimension, seed

    def add(self, pieces: Sequence[Tensor], into: Tensor) -> None:
        """Add S g to `into` (m,), where g is the concatenation of the pieces."""
        generator = torch.Generator(device=into.device).manual_seed(self.seed)
        for piece in pieces:
            for chunk in torch.split(piece.flatten().to(into.device), _CHUNK):
                drawn = torch.randint(2 * self.dimension, chunk.shape, generator=generator, device=into.device)
                signs = (drawn % 2) * 2 - 1
                into.index_add_(0, drawn // 2, chunk.to(into) * signs)


def _polarised(terms: MicroBatches, parameters: Sequence[nn.Parameter], policy: Policy, count: int) -> Tensor:
    """⟨g, h⟩ = (‖g + h‖² − ‖g‖² − ‖h‖²) / 2, so that no two gradients are ever held together."""
    pairs = list(combinations(range(count), 2))
    each = torch.eye(count)
    wanted = torch.stack([*each, *(each[k] + each[other] for k, other in pairs)])
    norms: list[Tensor] = []
    for _, group in groupby(_gradients(terms, wanted, parameters, policy, in_turn=True), key=itemgetter(0)):
        gradient: list[Tensor] | None = None
        for _, pieces in group:
            gradient = pieces if gradient is None else [a + b for a, b in zip(gradient, pieces, strict=True)]
        assert gradient is not None
        norms.append(_squared_norm(gradient, collectives.is_sharded(parameters)))
    gramian = torch.diag(torch.stack(norms[:count]))
    for (k, other), norm in zip(pairs, norms[count:], strict=True):
        gramian[k, other] = gramian[other, k] = (norm - norms[k] - norms[other]) / 2
    return gramian.to(parameters[0].device, torch.float32)


def _squared_norm(gradient: Sequence[Tensor], sharded: bool) -> Tensor:
    if not sharded:
        collectives.add_up(gradient)
    norm = torch.stack([piece.double().square().sum() for piece in gradient]).sum()
    return collectives.total(norm) if sharded else norm


def _gradients(
    terms: MicroBatches, wanted: Tensor, parameters: Sequence[nn.Parameter], policy: Policy, in_turn: bool
) -> Iterator[tuple[int, list[Tensor]]]:
    """(index, this process's part of the gradient of that combination (M,K) of the losses on one micro-batch).

    `in_turn` goes through all micro-batches for one combination before the next; otherwise each micro-batch is passed
    forwards once for all combinations.
    """
    everything, kept = trainable(policy), terms.is_single

    def gradient(part: Terms, combination: Tensor, is_last: bool) -> list[Tensor]:
        loss = combination.to(part.surrogates) @ part.surrogates
        if collectives.is_sharded(parameters):
            return _by_backward(loss, parameters, everything)
        # The graph is kept for what else goes back through it, and no longer: the next micro-batch needs the room.
        found = torch.autograd.grad(loss, parameters, retain_graph=not is_last, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    with torch.enable_grad():
        if in_turn:
            yield from ((m, gradient(part, row, not kept)) for m, row in enumerate(wanted) for part in terms())
        else:
            last = len(wanted) - 1
            for part in terms():
                yield from ((m, gradient(part, row, m == last and not kept)) for m, row in enumerate(wanted))


def _by_backward(loss: Tensor, parameters: Sequence[nn.Parameter], everything: Sequence[nn.Parameter]) -> list[Tensor]:
    """This process's shard of the gradient of Σ loss over processes; what `.grad` holds is put back afterwards."""
    before = [parameter.grad for parameter in everything]
    for parameter in everything:
        parameter.grad = None
    torch.autograd.backward(loss)  # FSDP2 reduces in a backward pass alone, and to the mean
    found = [
        torch.zeros_like(collectives.local(p)) if p.grad is None else collectives.local(p.grad) * collectives.size()
        for p in parameters
    ]
    for parameter, gradient in zip(everything, before, strict=True):
        parameter.grad = gradient
    return found
