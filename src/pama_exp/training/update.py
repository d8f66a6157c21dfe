"""From experience to gradients: one surrogate per combined advantage, weighted by the solver, and the other losses.

Legend: N objectives, K' surrogate losses, B responses, T response tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.metrics import diagnostics
from pama_exp.parallel import collectives
from pama_exp.parallel.finite import named, norm, require_finite
from pama_exp.policy.policy import Policy, select, trim
from pama_exp.policy.sharding import blocks_of
from pama_exp.rl.kl import kl_estimate
from pama_exp.rl.losses import clipped_surrogate, clipped_value_loss
from pama_exp.rl.masks import masked_variance
from pama_exp.solvers.solver import Gramian, Solver
from pama_exp.training.cost import Cost
from pama_exp.training.experience import Experience
from pama_exp.training.gramian import (
    GramianSettings,
    MicroBatches,
    Target,
    Terms,
    advantage_gramian,
    billed_passes,
    hidden_gramian,
    parameter_gramian,
    trainable,
)
from pama_exp.training.shared_rollout import parts_of
from pama_exp.types import Rollout

SMALL_MODEL = 5_000_000  # up to this many trained parameters, diagnostics use all parameters and responses by default
_DIAGNOSED_RESPONSES = 16  # of a larger model

_HINT = "Lower training.learning_rate, or the size of the rewards; nothing of this step is kept."


@dataclass(frozen=True)
class UpdateSettings:
    """Settings of the updates of one rollout; conf/config.yaml explains each."""

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
    importance_cap: float | None = None
    gramian: GramianSettings = field(default_factory=GramianSettings)
    diagnostics: GramianSettings | None = None  # over all responses; None: by the number of trained parameters
    kl_combined: bool = False
    scale_combined: bool = False


class MiniBatchLoss:
    """The loss of a mini-batch, Σ_k w_k L_k + value, KL and entropy terms, over micro-batches within a token budget.

    Every process holds the whole mini-batch and computes its share of the rows. Losses are divided by the whole
    mini-batch's number of tokens: the shares add up.
    """

    def __init__(
        self, policy: Policy, solver: Solver, settings: UpdateSettings, names: Sequence[str], needs_critic: bool
    ) -> None:
        self.policy, self.solver, self.settings = policy, solver, settings
        self.names, self.needs_critic = names, needs_critic

    def backward(
        self, batch: Experience, kl_coefficient: float, cost: Cost, apply: Callable[[Tensor], None], seed: int = 0
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of one mini-batch.

        Args:
            batch: the mini-batch.
            kl_coefficient: β.
            cost: counts the passes.
            apply: runs the backward pass of each micro-batch's scalar loss.
            seed: of a sketched Gramian.

        Returns:
            Means over the mini-batch's tokens, by metric name.

        Raises:
            UserError: if a loss, the Gramian or a solver's weight is not finite, or the losses depend on no trained
                parameter.
        """
        terms = self._terms_of(batch, kl_coefficient, cost)
        if len(batch.combined) == 1:  # a single loss has weight 1
            weights = torch.ones(1, device=batch.combined.device)
        else:
            with torch.set_grad_enabled(terms.is_single):
                losses = collectives.total(torch.stack([part.surrogates.detach() for part in terms()]).sum(0))
            require_finite(named("The loss", self.names, losses), _HINT)
            gramian = self.gramian(terms, len(losses), seed, cost, len(batch.rollout), batch=batch)
            weights = self.solver.on_losses(losses, gramian).to(losses)
            require_finite(named("The solver's weight", self.names, weights), _HINT)
        if self.settings.scale_combined:
            weights = weights * inverse_deviation(weights, batch.combined, batch.rollout.response_mask)
        logs: dict[str, Tensor] = {}
        for part in terms():
            if not part.surrogates.requires_grad:
                raise UserError(
                    "The policy's loss gives no trained parameter a gradient: the run would end as it began.",
                    "Does what is trained (adapter, model) take part in the model's pass?",
                )
            apply(weights @ part.surrogates + part.rest)
            for name, value in part.logs.items():
                logs[name] = logs.get(name, torch.zeros_like(value)) + value
        cost.backwards += len(batch.rollout)
        collectives.sum_gradients(trainable(self.policy))
        return collectives.totals(logs)

    def diagnose(self, batch: Experience) -> dict[str, float]:
        """Gradient norms, cosines and ‖Σ wⁱ gⁱ‖ of the objectives' own surrogates, the same for every solver."""
        uncounted = Cost()
        rows, settings = self._diagnosed(batch)
        terms = self._terms_of(rows, 0.0, uncounted, per_objective=True)
        gramian = self.gramian(terms, len(self.names), 0, uncounted, 0, settings)("parameters")
        cosines = diagnostics.gradient_cosines(gramian)
        metrics: dict[str, float] = {}
        for i, name in enumerate(self.names):
            metrics[f"solver/gradient_norm/{name}"] = gramian[i, i].clamp(min=0).sqrt().item()
            for j, other in enumerate(self.names[:i]):
                metrics[f"solver/cosine/{other}~{name}"] = cosines[i, j].item()
        weights = self.solver.latest_weights.to(gramian)
        metrics["solver/stationarity_residual"] = diagnostics.stationarity_residual(gramian, weights).item()
        return metrics

    def _diagnosed(self, batch: Experience) -> tuple[Experience, GramianSettings]:
        """The responses and gradients of diagnostics: all for a small model or if configured, else a bounded number."""
        if self.settings.diagnostics is not None:
            return batch, self.settings.diagnostics
        trained = sum(parameter.numel() for parameter in self.policy.actor_parameters())
        if trained <= SMALL_MODEL:
            return batch, self.settings.gramian
        count = max(1, _DIAGNOSED_RESPONSES // collectives.size()) * collectives.size()  # equal for each process
        rows = torch.arange(min(count, len(batch.rollout)), device=batch.rewards.device)  # the batch is shuffled
        last = blocks_of(self.policy.model)[-1:]
        target: Target = "last-layer" if last and trainable(last[0]) else "hidden"
        return batch.rows(rows), replace(self.settings.gramian, target=target, hold="all")

    def gramian(
        self,
        terms: MicroBatches,
        count: int,
        seed: int,
        cost: Cost,
        sequences: int,
        settings: GramianSettings | None = None,
        batch: Experience | None = None,
    ) -> Gramian:
        """A function that computes the Gramian G_kl = ⟨∇L^k, ∇L^l⟩ of the `count` surrogates when called.

        Args:
            terms: the losses of the micro-batches.
            count: number of surrogates.
            seed: of a sketched Gramian.
            cost: counts the backward passes of `sequences` sequences.
            sequences: number of responses of the mini-batch.
            settings: None: those of `training.gramian`.
            batch: with the target `advantages`, products of its advantages replace those of the gradients.
        """
        settings = self.settings.gramian if settings is None else settings

        def compute(target: Literal["parameters", "hidden"] = "parameters") -> Tensor:
            if settings.target == "advantages" and target == "parameters" and batch is not None:
                products = advantage_gramian(batch.combined, batch.rollout.response_mask)
            elif "hidden" in (target, settings.target):
                products = hidden_gramian(terms)
            else:
                cost.backwards += sequences * billed_passes(count, settings)
                products = parameter_gramian(terms, self.policy, count, settings, seed)
            require_finite(named("The Gramian's row", self.names, products), _HINT)
            return products

        return compute

    def _terms_of(
        self, batch: Experience, kl_coefficient: float, cost: Cost, per_objective: bool = False
    ) -> MicroBatches:
        parts = parts_of(batch.rollout, self.settings.micro_batch_tokens)
        tokens = batch.rollout.response_mask.sum().clamp(min=1)

        def terms(index: Tensor) -> Terms:
            rows = batch if len(index) == len(batch.rollout) else batch.rows(index)
            cost.forwards += len(index) * collectives.size()
            return self._terms(rows, tokens, kl_coefficient, rows.per_objective() if per_objective else rows.combined)

        return MicroBatches(parts, terms, keep=not collectives.is_sharded(self.policy.parameters()))

    def _terms(self, batch: Experience, tokens: Tensor, kl_coefficient: float, advantages: Tensor) -> Terms:
        settings, mask = self.settings, batch.rollout.response_mask
        output = self.policy.score_rollout(batch.rollout, settings.temperature)

        def surrogates_of(log_probs: Tensor) -> Tensor:
            return clipped_surrogate(
                log_probs, batch.old_log_probs, advantages, mask, settings.clip, token_count=tokens
            )

        def slopes() -> Tensor:
            log_probs = output.log_probs.detach().requires_grad_()
            losses = surrogates_of(log_probs)
            return torch.stack([torch.autograd.grad(loss, log_probs, retain_graph=True)[0] for loss in losses])

        surrogates = surrogates_of(output.log_probs)
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
        if settings.kl_combined:
            # A separate surrogate: the KL is charged once, outside solver and Gramian.
            charge = -kl_coefficient * batch.kl_to_come
            rest = rest + clipped_surrogate(
                output.log_probs, batch.old_log_probs, charge, mask, settings.clip, token_count=tokens
            )
        with torch.no_grad():
            # k3 of KL(sampling ‖ current), as the tokens are the sampling policy's.
            moved = (kl_estimate(batch.old_log_probs, output.log_probs, "k3") * mask).sum() / tokens
            logs |= {"policy/entropy": entropy.detach(), "policy/approx_kl": moved}
            clipped = diagnostics.clip_fraction(
                output.log_probs, batch.old_log_probs, batch.per_objective(), mask, settings.clip
            )
            share = mask.sum() / tokens
            logs |= {f"policy/clip_fraction/{n}": c * share for n, c in zip(self.names, clipped, strict=True)}
        return Terms(surrogates, rest, output.log_probs, output.hidden, slopes, logs)


def inverse_deviation(weights: Tensor, combined: Tensor, response_mask: Tensor) -> Tensor:
    """1 / σ of the weighted sum Σ_k w_k A_k of (K,B,T) advantages over valid tokens; 1 if it does not vary."""
    signal = torch.einsum("k,kbt->bt", weights, combined)
    deviation = masked_variance(signal, response_mask).sqrt()
    varies = deviation > 10 * torch.finfo(signal.dtype).eps * signal.abs().amax()
    return torch.where(varies, 1 / torch.where(varies, deviation, 1), 1)


def check_weights(policy: Policy, hint: str) -> None:
    """Check that every trained weight of policy and value heads is finite.

    Raises:
        UserError: if not.
    """
    require_finite(
        {
            "The norm of the policy's weights": norm(policy.actor_parameters()),
            "The norm of the value heads' weights": norm(trainable(policy.value_heads)),
        },
        hint,
    )


@torch.no_grad()
def check_learned(policy: Policy, rollout: Rollout, hint: str) -> None:
    """Check that the updated policy is still usable, by a forward pass over two responses.

    Weights that are finite but too large give logits that are not finite.

    Raises:
        UserError: if a weight, log-probability or value is not finite.
    """
    check_weights(policy, hint)
    rows = torch.arange(min(2, len(rollout)), device=rollout.response_mask.device)
    with torch.compiler.set_stance("force_eager"):  # compiled blocks would be compiled again for these shapes
        output = policy.score_rollout(trim(select(rollout, rows)))
    require_finite(
        {
            "A log-probability of the updated policy": output.log_probs,
            "A value of the updated value heads": output.values,
        },
        hint,
    )
