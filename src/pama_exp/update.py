"""From experience to gradients: a surrogate per combined advantage, weighed by the solver, and what it may not touch.

Legend: N objectives, K' surrogate losses, B responses, T response tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pama_exp.experience import Bill, Experience
from pama_exp.moo import diagnostics
from pama_exp.moo.solver import Gramian, Solver
from pama_exp.policy.policy import Policy, micro_batches
from pama_exp.rl.kl import kl_estimate
from pama_exp.rl.losses import clipped_surrogate, clipped_value_loss
from pama_exp.types import Rollout


@dataclass(frozen=True)
class UpdateSettings:
    """How one rollout becomes optimiser updates; conf/config.yaml says what each means."""

    epochs: int
    mini_batch_size: int
    micro_batch_tokens: int
    clip: float
    value_clip: float | None
    value_coefficient: float
    entropy_coefficient: float
    max_grad_norm: float
    target_kl: float | None
    kl_in_loss: bool
    kl_estimator: str
    temperature: float


@dataclass(frozen=True)
class Terms:
    """The parts of one (micro-)batch's loss, with their graph."""

    surrogates: Tensor  # (K',)
    rest: Tensor  # () value losses, KL and entropy: outside the solver's reach
    hidden: Tensor  # (B, T, H)
    logs: Mapping[str, Tensor]  # detached shares of the mini-batch's token means


class MiniBatchLoss:
    """Σ_k w_k L_k + value, KL and entropy terms, over micro-batches that fit a token budget."""

    def __init__(
        self, policy: Policy, solver: Solver, settings: UpdateSettings, names: Sequence[str], needs_critic: bool
    ) -> None:
        self.policy, self.solver, self.settings = policy, solver, settings
        self.names, self.needs_critic = names, needs_critic

    def backward(
        self, batch: Experience, kl_coefficient: float, bill: Bill, apply: Callable[[Tensor], None]
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of one mini-batch; `apply` is called on each micro-batch's scalar loss.

        Returns:
            Means over the mini-batch's tokens, by metric name.
        """
        terms = self._terms_of(batch, kl_coefficient, bill)
        if len(batch.combined) == 1:  # a single loss has nothing to weigh
            weights = torch.ones(1, device=batch.combined.device)
        else:
            with torch.set_grad_enabled(terms.is_single):
                losses = torch.stack([part.surrogates.detach() for part in terms()]).sum(0)
            weights = self.solver.on_losses(losses, self.gramian(terms, len(batch.rollout), bill)).to(losses)
        logs: dict[str, Tensor] = {}
        for part in terms():
            apply(weights @ part.surrogates + part.rest)
            for name, value in part.logs.items():
                logs[name] = logs.get(name, torch.zeros_like(value)) + value
        bill.backwards += len(batch.rollout)
        return logs

    def diagnose(self, batch: Experience) -> dict[str, float]:
        """Gradient cosines, norms and ‖Σ w^i g^i‖ of the objectives' own surrogates: the same for every solver."""
        unbilled = Bill()
        terms = self._terms_of(batch, 0.0, unbilled, per_objective=True)
        gramian = self.gramian(terms, 0, unbilled)("parameters")
        cosines = diagnostics.gradient_cosines(gramian)
        metrics: dict[str, float] = {}
        for i, name in enumerate(self.names):
            metrics[f"solver/gradient_norm/{name}"] = gramian[i, i].clamp(min=0).sqrt().item()
            for j, other in enumerate(self.names[:i]):
                metrics[f"solver/cosine/{other}~{name}"] = cosines[i, j].item()
        weights = self.solver.latest_weights.to(gramian)
        metrics["solver/stationarity_residual"] = diagnostics.stationarity_residual(gramian, weights).item()
        return metrics

    def gramian(self, terms: MicroBatches, sequences: int, bill: Bill) -> Gramian:
        """G_kl = ⟨∇L^k, ∇L^l⟩ of the surrogates alone, computed only if the solver asks for it.

        `hidden` differentiates with respect to the last shared hidden state, one pass through the head instead of the
        whole trunk (MGDA-UB, Sener & Koltun 2018).
        """

        def compute(target: Literal["parameters", "hidden"] = "parameters") -> Tensor:
            whole: Tensor | None = None
            with torch.enable_grad():
                for part in terms():
                    inputs = [part.hidden] if target == "hidden" else trainable(self.policy.model)
                    gradients = torch.stack([flat_gradient(loss, inputs) for loss in part.surrogates])
                    # Hidden states of other responses are other coordinates, so their products add up; parameters are
                    # shared, so their gradients do.
                    piece = gradients @ gradients.T if target == "hidden" else gradients
                    whole = piece if whole is None else whole + piece
            assert whole is not None
            if target == "hidden":
                return whole
            bill.backwards += sequences * len(whole)
            return whole @ whole.T

        return compute

    def _terms_of(
        self, batch: Experience, kl_coefficient: float, bill: Bill, per_objective: bool = False
    ) -> MicroBatches:
        parts = parts_of(batch.rollout, self.settings.micro_batch_tokens)
        tokens = batch.rollout.response_mask.sum().clamp(min=1)

        def terms(index: Tensor) -> Terms:
            rows = batch if len(parts) == 1 else batch.rows(index)
            bill.forwards += len(rows.rollout)
            return self._terms(rows, tokens, kl_coefficient, rows.per_objective() if per_objective else rows.combined)

        return MicroBatches(parts, terms)

    def _terms(self, batch: Experience, tokens: Tensor, kl_coefficient: float, advantages: Tensor) -> Terms:
        settings, mask = self.settings, batch.rollout.response_mask
        output = self.policy.score_rollout(batch.rollout, settings.temperature)
        surrogates = clipped_surrogate(
            output.log_probs, batch.old_log_probs, advantages, mask, settings.clip, token_count=tokens
        )
        logs = {"policy/loss": surrogates.detach().mean()}
        rest = surrogates.new_zeros(())
        if self.needs_critic:
            value_losses = clipped_value_loss(
                output.values, batch.old_values, batch.returns, mask, settings.value_clip, token_count=tokens
            )
            rest = rest + settings.value_coefficient * value_losses.sum()
            logs["value/loss"] = value_losses.detach().sum()
        entropy = (output.entropy * mask).sum() / tokens
        if settings.entropy_coefficient != 0.0:
            rest = rest - settings.entropy_coefficient * entropy
        if settings.kl_in_loss:
            kl = kl_estimate(output.log_probs, batch.reference_log_probs, settings.kl_estimator)
            rest = rest + kl_coefficient * (kl * mask).sum() / tokens
        with torch.no_grad():
            # k3 of the sampling policy against the current one: the tokens are the sampling policy's.
            moved = (kl_estimate(batch.old_log_probs, output.log_probs, "k3") * mask).sum() / tokens
            logs |= {"policy/entropy": entropy.detach(), "policy/approx_kl": moved}
            clipped = diagnostics.clip_fraction(
                output.log_probs, batch.old_log_probs, batch.per_objective(), mask, settings.clip
            )
            share = mask.sum() / tokens
            logs |= {f"policy/clip_fraction/{n}": c * share for n, c in zip(self.names, clipped, strict=True)}
        return Terms(surrogates, rest, output.hidden, logs)


class MicroBatches:
    """Iterating gives the terms of each micro-batch; a single one is computed once and kept."""

    def __init__(self, parts: Sequence[Tensor], compute: Callable[[Tensor], Terms]) -> None:
        self.parts, self.compute = parts, compute
        self.is_single = len(parts) == 1
        self._kept: Terms | None = None

    def __call__(self) -> Iterator[Terms]:
        """The terms in order; asked again, a single one is the same and several are computed anew."""
        if not self.is_single:
            return (self.compute(part) for part in self.parts)
        if self._kept is None:
            self._kept = self.compute(self.parts[0])
        return iter([self._kept])


def parts_of(rollout: Rollout, token_budget: int) -> list[Tensor]:
    """Row indices of micro-batches within the token budget."""
    return micro_batches(rollout.response_mask.sum(-1), rollout.prompts.input_ids.shape[1], token_budget)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [p for p in module.parameters() if p.requires_grad]


def flat_gradient(loss: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """∇loss as one vector; zero for inputs the loss does not reach. The graph is kept."""
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(inputs, gradients, strict=True)]
    )
