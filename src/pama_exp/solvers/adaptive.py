"""Methods that adapt the weights of advantages from step to step to the observed rewards.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError
from pama_exp.metrics.fronts import hypervolume
from pama_exp.solvers.solver import Solver, require_positive


class CTWA(Solver):
    """Covariance-targeted weights: an objective that the training signal works against gains weight.

    Rule: A = Σ wʲ Aʲ; cʲ = moving average of Cov(rʲ, clip(Ā, −b, b)) within prompts; log wʲ += η [c*ʲ − cʲ]₊,
        renormalised. Ā is the combined advantage of a response, which is what the clipped surrogate's weight is at the
        policy that sampled it.
    Cost: one backward pass.
    State: log w and the moving average of c.
    Scale: neither. The target is in the units of reward times advantage.
    Weights: simplex.
    Stays: own.
    Advantage: advantage=group (either baseline): the covariance is among the answers to one prompt.
    Source: arXiv 2602.06869, the weight update of covariance-targeted weight adaptation. Its code differs in that it
        weights rewards and estimates one advantage; measures the covariance after the update, with the advantage times
        the ratio where it is not clipped; lets log w grow without renormalising; leaves out signals beyond 100 medians
        where here they are clipped at b; and has c* 0.05 to 0.15 and η 0.02 to 0.05. `goals` is its gate.
    Use: where linear weights improve some objectives and let others fall.

    Args:
        weights: w at the start, all positive.
        target: c*, one number for all objectives or one per objective.
        step_size: η.
        decay: of the moving average, in [0, 1).
        bound: b, in units of the advantage.
        goals: one mean score per objective at which its weight stops growing, or null for none; null: no goals.
        group_size: responses per prompt; given by the run.

    Raises:
        UserError: for a weight of zero, a target of another length, or a setting outside its range.
    """

    estimators = ("group/leave_one_out", "group/standardise")
    checkpointed = ("log_weights", "covariance")

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        target: Annotated[float, Range()] | Sequence[float] = 0.01,
        step_size: Annotated[float, Range(least=0)] = 1.0,
        decay: Annotated[float, Range(least=0, below=1)] = 0.9,
        bound: Annotated[float, Range(above=0)] = 5.0,
        goals: Sequence[float | None] | None = None,
        group_size: Annotated[int, Range(least=1)] = 1,
    ) -> None:
        super().__init__(weights)
        require_positive(weights, "CTWA multiplies weights, and 0 would stay 0")
        count = len(self.weights)
        self.target = torch.tensor([target] * count if isinstance(target, int | float) else list(target)).float()
        if len(self.target) != count:
            raise UserError(f"solver.target={target} does not fit {count} objectives.", "Give one number, or one each.")
        if goals is not None and len(goals) != count:
            raise UserError(f"solver.goals={list(goals)} for {count} objectives.", "Give one per objective.")
        self.goals = torch.tensor([torch.inf if goal is None else float(goal) for goal in goals or [None] * count])
        self.reached = torch.zeros(count, dtype=torch.bool)
        self.step_size, self.decay, self.bound, self.group_size = step_size, decay, bound, group_size
        self.log_weights = self.weights.double().log()
        self.covariance: Float[Tensor, " N"] | None = None
        self._rewards: Float[Tensor, "N B"] | None = None

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Record which goals the step's mean scores have reached."""
        self.reached = scores.mean(1).float().cpu() >= self.goals

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """Return the rewards unchanged; they are stored for the covariance."""
        self._rewards = rewards
        return rewards

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage under the current weights, which are then adapted for the next step."""
        self.latest_weights = self.log_weights.softmax(0).to(advantages)
        combined = torch.einsum("n,nbt->bt", self.latest_weights, advantages)
        assert self._rewards is not None, "on_rewards comes first"
        signal = torch.where(response_mask, combined, 0).sum(1) / response_mask.sum(1).clamp(min=1)
        signal = signal.clamp(-self.bound, self.bound)
        latest = within_group_covariance(self._rewards, signal, self.group_size).float().cpu()
        average = latest if self.covariance is None else self.decay * self.covariance + (1 - self.decay) * latest
        self.covariance = average
        missing = torch.where(self.reached, 0, (self.target - average).clamp(min=0))
        self.log_weights = (self.log_weights + self.step_size * missing).log_softmax(0)
        return combined[None]


class Lagrangian(Solver):
    """One objective is maximised while the others are kept above targets by multipliers.

    Rule: A = (A¹ + Σ λᵏ Aᵏ) / (1 + Σ λᵏ); λᵏ ← min([λᵏ + η (targetᵏ − mean rᵏ)]₊, cap), once per step.
    Cost: one backward pass.
    State: λ and the targets.
    Scale: neither. The targets are in the units of the scores before normalisation.
    Weights: simplex.
    Stays: no. A multiplier keeps moving until its target is met.
    Advantage: any.
    Source: Safe RLHF, arXiv 2310.12773, the PPO-Lagrangian advantage and the update of λ.
    Use: where requirements are thresholds rather than preferences. Which objective is maximised is a setting, so that
        the order of the objectives matters through it alone.

    Args:
        weights: only their number is used; λ replaces them.
        primary: the position of the objective that is maximised, from 0.
        targets: lowest mean score of each objective, null for none; the primary's is ignored. Null: the starting
            policy's means.
        step_size: η, in units of 1 / score.
        initial: λ at the start.
        cap: the largest λ.

    Raises:
        UserError: for a position or a number of targets that does not fit, or a setting outside its range.
    """

    checkpointed = ("multipliers", "targets")

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        primary: Annotated[int, Range(least=0)] = 0,
        targets: Sequence[float | None] | None = None,
        step_size: Annotated[float, Range(least=0)] = 0.5,
        initial: Annotated[float, Range(least=0)] = 0.0,
        cap: Annotated[float, Range(above=0)] = 10.0,
    ) -> None:
        super().__init__(weights)
        count = len(self.weights)
        if primary >= count:
            raise UserError(f"solver.primary={primary} of {count} objectives.", f"It lies between 0 and {count - 1}.")
        if targets is not None and len(targets) != count:
            raise UserError(f"solver.targets={list(targets)} for {count} objectives.", "Give one per objective.")
        if initial > cap:
            raise UserError(f"solver.initial={initial}, solver.cap={cap}.", "λ starts between 0 and its cap.")
        self.is_primary = torch.arange(count) == primary
        self.step_size, self.cap = step_size, cap
        self.needs_calibration = targets is None
        self.targets = torch.tensor([-torch.inf if t is None else float(t) for t in targets or [None] * count])
        self.multipliers = torch.where(self.is_primary, 1.0, initial)  # the primary's is 1, always
        self.latest_weights = self.multipliers / self.multipliers.sum()

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the targets to the starting policy's mean scores, unless they are settings."""
        if self.needs_calibration:
            self.targets = scores.mean(1).float().cpu()

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Update the multipliers λ by how far each mean score is below its target."""
        missed = self.targets - scores.mean(1).float().cpu()
        moved = (self.multipliers + self.step_size * missed).clamp(0, self.cap)
        self.multipliers = torch.where(self.is_primary, 1.0, moved)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        self.latest_weights = (self.multipliers / self.multipliers.sum()).to(advantages)
        return torch.einsum("n,nbt->bt", self.latest_weights, advantages)[None]


class DynamicHypervolume(Solver):
    """Linear weights whose step is larger after validation has found a new point of the front.

    Rule: A = m Σ wⁱ Aⁱ, m = 0.5 + 1.5 tanh(ΔHV), ΔHV what the latest validation adds to the hypervolume of those before
        it. Applied after whitening, which would cancel it.
    Cost: one backward pass.
    State: the archive of validation points, the calibration's mean and deviation, m.
    Scale: equivariant.
    Weights: simplex.
    Stays: own.
    Advantage: any. Needs training.evaluate_every > 0.
    Source: arXiv 2509.11452, hypervolume-guided weight adaptation. Points are in deviations of the calibration sample
        from its mean, the reference is −1 in each; m is 1 until the first validation after the start.
    Use: to reproduce that paper. The multiplier is common to all objectives, so Adam and gradient clipping undo most
        of it.

    Args:
        weights: w, one per objective.
    """

    needs_calibration = True
    needs_validation = True
    checkpointed = ("archive", "mean", "deviation", "multiplier")

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.mean, self.deviation = torch.zeros(len(self.weights)), torch.ones(len(self.weights))
        self.archive: list[list[float]] = []
        self.multiplier = 1.0

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the units of the hypervolume: the starting policy's mean and deviation."""
        self.mean, spread = scores.mean(1).float().cpu(), scores.std(1, correction=0).float().cpu()
        self.deviation = torch.where(spread > 0, spread, 1)

    def on_validation(self, means: Float[Tensor, " N"]) -> None:
        """Add the point to the archive and set m by the hypervolume it adds; m stays 1 at the first point."""
        point = ((means.float().cpu() - self.mean) / self.deviation).tolist()
        if self.archive:
            corner = [-1.0] * len(point)
            added = hypervolume([*self.archive, point], corner) - hypervolume(self.archive, corner)
            self.multiplier = 0.5 + 1.5 * torch.tensor(added).tanh().item()
        self.archive.append(point)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        return self.multiplier * torch.einsum("n,nbt->bt", self.weights.to(advantages), advantages)[None]


def within_group_covariance(
    rewards: Float[Tensor, "N B"], signal: Float[Tensor, " B"], group_size: int
) -> Float[Tensor, " N"]:
    """Cov(rʲ, signal) within each group of consecutive responses, averaged over the groups."""
    grouped = rewards.reshape(len(rewards), -1, group_size)
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred * signal.reshape(-1, group_size)).mean((1, 2))  # centring one side is enough
