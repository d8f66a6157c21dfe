"""Scores of several reward functions to one advantage per token, by a solver, inside a trainer that is not this one.

Legend: N objectives, K reward channels, B responses, T response tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pama_exp.errors import UserError
from pama_exp.integrations.group_baselines import group_means
from pama_exp.rl.masks import masked_mean
from pama_exp.solvers.balancing import DynamicGradient, GradNorm
from pama_exp.solvers.gapo import PGAPO
from pama_exp.solvers.group import RVPO
from pama_exp.solvers.noon import ShiftedPAMA, SoftNoon
from pama_exp.solvers.pama import PAMA
from pama_exp.solvers.scalarizers import Linear
from pama_exp.solvers.solver import Solver

# Those that look for the least advantage: to them an abstention of 0 would be a veto.
_LOOK_FOR_THE_LEAST = (PAMA, ShiftedPAMA, SoftNoon, RVPO)
_NEAREST: tuple[tuple[tuple[type[Solver], ...], str], ...] = (
    ((PGAPO,), "GDPO, which weighs rewards that are standardised one by one"),
    ((GradNorm, DynamicGradient), "ProportionalFairness, which favours the objective that lags"),
    ((Solver,), "PAMA, whose min-norm problem is solved over advantages"),
)

Baseline = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Combined:
    """What came of one batch.

    Attributes:
        advantages: (B,T) the solver's, zero off the mask.
        own: (K,B) those of each channel, NaN where it has none.
        weights: (N,) the solver's latest.
    """

    advantages: Float[Tensor, "B T"]
    own: Float[Tensor, "K B"]
    weights: Float[Tensor, " N"]

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Solver weights, mean and deviation of each objective's advantages, and the share of responses left at 0."""
        found = {f"solver/weight/{name}": w for name, w in zip(names, self.weights.tolist(), strict=True)}
        if len(self.own) == len(names):
            for name, row in zip(names, self.own, strict=True):
                kept = row[torch.isfinite(row)]
                spread = kept.std(correction=0).item() if len(kept) else float("nan")
                found |= {f"advantage/{name}/mean": kept.mean().item(), f"advantage/{name}/std": spread}
        return found | {"solver/zero_share": (self.advantages == 0).all(1).float().mean().item()}


class Combiner:
    """A solver, the baseline that its advantages are made with, and whether the first batch has calibrated it.

    Args:
        solver: one that acts on rewards or advantages.
        baseline: (K,B) scores and (B,) groups to (K,B) advantages; NaN is a score that is missing.
        label: what the solver's `estimators` call the baseline.
        trainer: the trainer's name, for messages.
        validates: whether the trainer tells the solver its validation means.

    Raises:
        UserError: if the solver needs gradients, validation that nobody does, or another baseline.
    """

    def __init__(self, solver: Solver, baseline: Baseline, label: str, trainer: str, validates: bool = False) -> None:
        self.solver, self.baseline, self.trainer = solver, baseline, trainer
        self.is_calibrated = not solver.needs_calibration
        refuse_gradients(solver, trainer)
        name = type(solver).__name__
        if solver.estimators and label not in solver.estimators:
            raise UserError(
                f"{name} is not defined for the advantage '{label}' of {trainer}.",
                f"It is for {' or '.join(solver.estimators)}.",
            )
        if solver.needs_validation and not validates:
            raise UserError(f"{name} is steered by validation, which {trainer} does not do here.", "Have it evaluate.")

    def __call__(
        self,
        scores: Float[Tensor, "N B"],
        groups: Int[Tensor, " B"],
        response_mask: Bool[Tensor, "B T"],
        kl_penalty: Float[Tensor, " B"] | None = None,
    ) -> Combined:
        """One step's advantages; the solver's state moves on.

        Args:
            scores: NaN where a function abstained. A response without any score gets no advantage.
            groups: a number per prompt, in any order and of any sizes.
            response_mask: True on tokens the policy chose.
            kl_penalty: what every objective's return is charged, in units of the advantage's scores.

        Raises:
            UserError: for a number of objectives or a group's size that the solver was not made for, or a score that is
                infinite.
        """
        self._check(scores, groups)
        order = groups.argsort(stable=True)  # the solvers take the answers to one prompt to be neighbours
        back = order.argsort()
        found = self._combine(
            scores[:, order].float(),
            groups[order],
            response_mask[order],
            None if kl_penalty is None else kl_penalty[order].float(),
        )
        return Combined(found.advantages[back], found.own[:, back], found.weights)

    def state_dict(self) -> dict[str, Any]:
        """The solver's state and whether it is calibrated."""
        return {"solver": self.solver.state_dict(), "is_calibrated": self.is_calibrated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.solver.load_state_dict(state["solver"])
        self.is_calibrated = state["is_calibrated"]

    def _combine(self, scores: Tensor, groups: Tensor, mask: Tensor, kl_penalty: Tensor | None) -> Combined:
        has_score = torch.isfinite(scores)
        counts = has_score.any(0)
        # A sum is taken as TRL takes it, over what there is; whatever else looks at rewards sees the group's mean.
        neutral = torch.zeros_like(scores) if isinstance(self.solver, Linear) else group_means(scores, groups)
        filled = torch.where(has_score, scores, neutral)
        seen = filled[:, counts] if bool(counts.any()) else filled
        if not self.is_calibrated:
            self.solver.calibrate(seen, seen)
            self.is_calibrated = True
        self.solver.observe(seen)
        channels = self.solver.on_rewards(filled)
        is_known = has_score if len(channels) == len(scores) else counts.expand(len(channels), -1)
        channels = torch.where(is_known, channels if kl_penalty is None else channels - kl_penalty, torch.nan)
        own = self.baseline(channels, groups)
        mask = mask & counts[:, None]
        tokens = torch.where(mask, self._without_abstentions(own)[:, :, None], 0)
        combined = self.solver.on_advantages(tokens, mask)
        if len(combined) > 1:
            losses = -masked_mean(combined, mask, (-2, -1))  # of the surrogates, at the policy that sampled
            weights = self.solver.on_losses(losses, no_gradients(self.solver, self.trainer))
            combined = (weights.to(combined)[:, None, None] * combined).sum(0, keepdim=True)
        return Combined(torch.where(mask, combined[0], 0), own, self.solver.latest_weights.detach().float().cpu())

    def _without_abstentions(self, own: Tensor) -> Tensor:
        """What abstained adds nothing to a sum; to a solver that seeks the least it is as the mean of the others."""
        missing = torch.isnan(own)
        if not isinstance(self.solver, _LOOK_FOR_THE_LEAST) or len(own) < 2:
            return torch.where(missing, 0, own)
        # PAMA compares Aⁱ/pⁱ: their mean lies between the least and the greatest of the others, and so decides nothing.
        preference = torch.ones_like(own) if isinstance(self.solver, RVPO) else self.solver.weights.to(own)[:, None]
        others = torch.nan_to_num(torch.nanmean(own / preference, dim=0))
        return torch.where(missing, preference * others, own)

    def _check(self, scores: Tensor, groups: Tensor) -> None:
        name, count = type(self.solver).__name__, len(self.solver.weights)
        if len(scores) != count:
            raise UserError(
                f"{name} has weights for {count} objectives and {self.trainer} scores {len(scores)}.",
                "Give one weight per reward function.",
            )
        if bool(torch.isinf(scores).any()):
            position = int(torch.isinf(scores).any(1).nonzero()[0])
            raise UserError(f"Reward {position + 1} of {count} is infinite.", "Return a finite number, or None.")
        size = getattr(self.solver, "group_size", None)
        sizes = sorted(set(torch.bincount(groups).tolist()) - {0})
        if size is not None and sizes != [size]:
            given = " and ".join(map(str, sizes[:3]))
            raise UserError(
                f"{name} was made for groups of {size}, and {self.trainer} has groups of {given}.",
                "Give it group_size as the number of answers per prompt, the same for all.",
            )


def no_gradients(solver: Solver, trainer: str) -> Callable[..., Tensor]:
    """In place of a Gramian: refuses the solver that asks for it."""

    def refuse(target: Literal["parameters", "hidden"] = "parameters") -> Tensor:
        name = type(getattr(solver, "weighting", solver)).__name__.removesuffix("Weighting")
        nearest = next(text for kinds, text in _NEAREST if isinstance(solver, kinds))
        raise UserError(
            f"{name} weighs losses by their gradients, and {trainer} computes one gradient for all objectives.",
            f"The nearest without gradients is {nearest}.",
        )

    return refuse


def refuse_gradients(solver: Solver, trainer: str) -> None:
    """The solver asks for no gradients.

    Raises:
        UserError: if it does, with the nearest one that does not.
    """
    count = len(solver.weights)
    if count > 1 and type(solver).on_losses is not Solver.on_losses:
        copy.deepcopy(solver).on_losses(torch.zeros(count), no_gradients(solver, trainer))
