"""Metrics of a step that need no further forward pass: of the solver, the same for every solver, and of the critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pama_exp.metrics import diagnostics
from pama_exp.rl.losses import explained_variance
from pama_exp.solvers.solver import Solver
from pama_exp.training.experience import Experience

LEAST_KL = 1e-4  # nats per response; the float32 log-probabilities of some tens of tokens have 1e-5 of rounding error


def described(experience: Experience, solver: Solver, names: Sequence[str], needs_critic: bool) -> dict[str, float]:
    """Metrics of a step by name: solver weights, binding shares, covariances, KL shares and explained variances.

    `names` are the objectives' names; `needs_critic` is the estimator's.
    """
    mask, per_objective = experience.rollout.response_mask, experience.per_objective()
    weights = solver.latest_weights.to(per_objective)
    # If the solver weights losses, the signal is the sum of advantages under those weights.
    is_combined = len(experience.combined) == 1
    signal = experience.combined[0] if is_combined else torch.einsum("n,nbt->bt", weights, per_objective)
    tables = {
        "weight": weights,
        "binding_share": diagnostics.binding_share(per_objective, mask),
        "covariance": diagnostics.reward_signal_covariance(experience.rewards, signal, mask),
    }
    metrics = {
        f"solver/{kind}/{name}": value.item()
        for kind, values in tables.items()
        for name, value in zip(names, values, strict=True)
    }
    to_come = experience.kl_to_come
    # Before the first update the policy is the reference, and differences are rounding errors.
    to_come = torch.where(to_come.abs().amax() > LEAST_KL, to_come, 0)
    kl_shares = diagnostics.explained_share(per_objective, to_come, mask)
    metrics |= {f"advantage/kl_share/{name}": share.item() for name, share in zip(names, kl_shares, strict=True)}
    if needs_critic:
        channels = names if len(experience.advantages) == len(names) else ["scalarised"]
        shares = explained_variance(experience.old_values, experience.returns, mask)
        metrics |= {f"value/explained_variance/{n}": v.item() for n, v in zip(channels, shares, strict=True)}
    return metrics
