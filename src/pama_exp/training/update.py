"""From experience to gradients: a surrogate per combined advantage, weighed by the solver, and what it may not touch.

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

SMALL_MODEL = 5_000_000  # trained parameters up to which diagnostics by default look at all of them, and all responses
_LOOKED_AT = 16  # responses of a larger model

_HINT = "Lower training.learning_rate, or the size of the rewards; of this step nothing is kept."


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
    importance_cap: float | None = None
    gramian: GramianSettings = field(default_factory=GramianSettings)
    diagnostics: GramianSettings | None = None  # of all responses; None: as the size of what is trained allows
    kl_combined: bool = False
    scale_combined: bool = False


class MiniBatchLoss:
    """Σ_k w_k L_k + value, KL and entropy terms, over micro-batches that fit a token budget.

    Every process holds the whole mini-batch and computes its share of the rows; losses are divided by the whole
    mini-batch's tokens, so that the shares add up.
    """

    def __init__(
        self, policy: Policy, solver: Solver, settings: UpdateSettings, names: Sequence[str], needs_critic: bool
    ) -> None:
        self.policy, self.solver, self.settings = policy, solver, settings
        self.names, self.needs_critic = names, needs_critic

    def backward(
        self, batch: Experience, kl_coefficient: float, cost: Cost, apply: Callable[[Tensor], None], seed: int = 0
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of one mini-batch; `apply` is called on each micro-batch's scalar loss.

        `seed` is that of a sketched Gramian.

        Returns:
            Means over the mini-batch's tokens, by metric name.

        Raises:
            UserError: if a loss, the Gramian or a weight of the solver is not finite, or the losses depend on nothing
                that is trained.
        """
        terms = self._terms_of(batch, kl_coefficient, cost)
        if len(batch.combined) == 1:  # a single loss has nothing to weigh
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
        """Gradient cosines, norms and ‖Σ w^i g^i‖ of the objectives' own surrogates: the same for every solver."""
        unbilled = Cost()
        rows, settings = self._looked_at(batch)
        terms = self._terms_of(rows, 0.0, unbilled, per_objective=True)
        gramian = self.gramian(terms, len(self.names), 0, unbilled, 0, settings)("parameters")
        cosines = diagnostics.gradient_cosines(gramian)
        metrics: dict[str, float] = {}
        for i, name in enumerate(self.names):
            metrics[f"solver/gradient_norm/{name}"] = gramian[i, i].clamp(min=0).sqrt().item()
            for j, other in enumerate(self.names[:i]):
                metrics[f"solver/cosine/{other}~{name}"] = cosines[i, j].item()
        weights = self.solver.latest_weights.to(gramian)
        metrics["solver/stationarity_residual"] = diagnostics.stationarity_residual(gramian, weights).item()
        return metrics

    def _looked_at(self, batch: Experience) -> tuple[Experience, GramianSettings]:
        """The responses and the gradients that diagnostics are of: bounded, unless all are cheap or asked for."""
        given = self.settings.gramian
        if self.settings.diagnostics is not None:
            return batch, self.settings.diagnostics
        trained = sum(parameter.numel() for parameter in self.policy.actor_parameters())
        if trained <= SMALL_MODEL:
            return batch, given
        share = max(1, _LOOKED_AT // collectives.size()) * collectives.size()  # as many for each process
        rows = torch.arange(min(share, len(batch.rollout)), device=batch.rewards.device)  # they come shuffled
        last = blocks_of(self.policy.model)[-1:]
        target: Target = "last-layer" if last and trainable(last[0]) else "hidden"
        return batch.rows(rows), replace(given, target=target, hold="all")

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
        """G_kl = ⟨∇L^k, ∇L^l⟩ of the `count` surrogates alone, computed only if the solver asks for it.

        `settings` are `training.gramian` unless others are given. With the target `advantages`, and a `batch`, the
        products of its advantages stand for those of the gradients.
        """
        settings = self.settings.gramian if settings is None else settings

        def compute(target: Literal["parameters", "hidden"] = "parameters") -> Tensor:
            if settings.target == "advantages" and target == "parameters" and batch is not None:
                found = advantage_gramian(batch.combined, batch.rollout.response_mask)
            elif "hidden" in (target, settings.target):
                found = hidden_gramian(terms)
            else:
                cost.backwards += sequences * billed_passes(count, settings)
                found = parameter_gramian(terms, self.policy, count, settings, seed)
            require_finite(named("The Gramian's row", self.names, found), _HINT)
            return found

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
            # A surrogate of its own: the KL is charged once, and no solver or Gramian sees it.
            charge = -kl_coefficient * batch.kl_to_come
            rest = rest + clipped_surrogate(
                output.log_probs, batch.old_log_probs, charge, mask, settings.clip, token_count=tokens
            )
        with torch.no_grad():
            # k3 of the sampling policy against the current one: the tokens are the sampling policy's.
            moved = (kl_estimate(batch.old_log_probs, output.log_probs, "k3") * mask).sum() / tokens
            logs |= {"policy/entropy": entropy.detach(), "policy/approx_kl": moved}
            clipped = diagnostics.clip_fraction(
                output.log_probs, batch.old_log_probs, batch.per_objective(), mask, settings.clip
            )
            share = mask.sum() / tokens
            logs |= {f"policy/clip_fraction/{n}": c * share for n, c in zip(self.names, clipped, strict=True)}
        return Terms(surrogates, rest, output.log_probs, output.hidden, slopes, logs)


def inverse_deviation(weights: Tensor, combined: Tensor, response_mask: Tensor) -> Tensor:
    """1 / σ of Σ_k w_k A_k over the valid tokens of (K,B,T) advantages; 1 where it does not vary."""
    signal = torch.einsum("k,kbt->bt", weights, combined)
    deviation = masked_variance(signal, response_mask).sqrt()
    varies = deviation > 10 * torch.finfo(signal.dtype).eps * signal.abs().amax()
    return torch.where(varies, 1 / torch.where(varies, deviation, 1), 1)


def check_weights(policy: Policy, hint: str) -> None:
    """Every trained weight is a finite number.

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
    """What a step has made of the policy can be gone on from: a pass over two of its responses costs little, and tells.

    Weights that are finite but too large make logits that are not.

    Raises:
        UserError: if a weight, log-probability or value is not finite.
    """
    check_weights(policy, hint)
    rows = torch.arange(min(2, len(rollout)), device=rollout.response_mask.device)
    with torch.compiler.set_stance("force_eager"):  # compiled blocks would be compiled once more, for these shapes
        output = policy.score_rollout(trim(select(rollout, rows)))
    require_finite(
        {
            "A log-probability of the updated policy": output.log_probs,
            "A value of the updated value heads": output.values,
        },
        hint,
    )
