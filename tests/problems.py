"""Small problems with known Pareto sets, solved through the solver's own hooks by a policy that answers with a point.

The policy is a narrow normal distribution around θ in the plane; its responses are a symmetrical design of points around
θ, all answers to one prompt, so that nothing is random and the policy gradient of a quadratic is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pama_exp.rl.estimators import Group
from pama_exp.rl.losses import clipped_surrogate
from pama_exp.solvers.solver import Solver

DIRECTIONS = 16
WIDTH = 0.05


@dataclass(frozen=True)
class Problem:
    """Objectives to be maximised, (M,2) points → (N,M), and how far a point is from the Pareto set."""

    objectives: Callable[[Tensor], Tensor]
    distance: Callable[[Tensor], float]

    def gradients(self, at: Tensor) -> Tensor:
        """(N,2) at one point."""
        return torch.autograd.functional.jacobian(lambda x: self.objectives(x[None])[:, 0], at)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    return (points[None] - centres[:, None]).square().sum(-1)


CENTRES = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
# −‖x − a‖² and −‖x − b‖²: the Pareto set is the segment from a to b, the front is convex.
QUADRATICS = Problem(
    lambda x: -squared_distances(x, CENTRES), lambda x: math.hypot(max(abs(x[0].item()) - 1, 0), x[1].item())
)
PEAKS = torch.tensor([[-0.5, -0.5], [0.5, 0.5]]) * math.sqrt(2)
# Fonseca & Fleming 1995, as something to maximise: exp(−‖x ∓ 1/√2‖²). The Pareto set is the segment between the peaks;
# between its ends the front bends inwards, where no weighted sum has a maximum.
FONSECA_FLEMING = Problem(
    lambda x: torch.exp(-squared_distances(x, PEAKS)),
    lambda x: math.hypot(*(x - x.mean().clamp(-math.sqrt(0.5), math.sqrt(0.5))).tolist()),
)
# (s², (1 − s)²) − y²: the front is y = 0, s in [0, 1]: √f¹ + √f² = 1, which bends inwards all the way.
INWARD = Problem(
    lambda x: (
        torch.stack([x[:, 0].clamp(0, 1) ** 2, (1 - x[:, 0].clamp(0, 1)) ** 2])
        - x[:, 1] ** 2
        - (x[:, 0] - x[:, 0].clamp(0, 1)) ** 2
    ),
    lambda x: math.hypot(max(-x[0].item(), x[0].item() - 1, 0), x[1].item()),
)


def design() -> Tensor:
    """(16,2) directions whose mean is 0 and whose second moment is the identity."""
    angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS) + 0.1
    return math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], 1)


def grid() -> Tensor:
    """(M,2) points that cover the region of interest, for calibration."""
    axis = torch.linspace(-1.5, 1.5, 13)
    return torch.cartesian_prod(axis, axis)


def calibrated(solver: Solver, problem: Problem) -> Solver:
    """The solver, told what the stage would tell it before the first step."""
    solver.group_size = DIRECTIONS
    if solver.needs_calibration:
        scores = problem.objectives(grid())
        solver.calibrate(scores, scores)
    return solver


def direction(solver: Solver, problem: Problem, at: Tensor) -> Tensor:
    """The (2,) ascent direction of one update of the policy around `at`: minus the gradient of the weighted surrogates."""
    points = at + WIDTH * design()
    scores = problem.objectives(points)
    solver.observe(scores)
    mask = torch.ones(DIRECTIONS, 1, dtype=torch.bool)
    baseline = "standardise" if "group/standardise" in solver.estimators[:1] else "leave_one_out"
    channels = solver.on_rewards(scores)
    nothing = torch.zeros(len(channels), DIRECTIONS, 1)
    advantages, _ = Group(baseline, DIRECTIONS).estimate(channels, nothing[0], nothing, mask)
    combined = solver.on_advantages(advantages, mask)

    theta = at.clone().requires_grad_()
    log_probs = -(points - theta).square().sum(1, keepdim=True) / (2 * WIDTH**2)
    losses = clipped_surrogate(log_probs, log_probs.detach(), combined, mask, 0.2)

    def gramian(target: str = "parameters") -> Tensor:
        rows = torch.stack([torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses])
        return rows @ rows.T

    weights = solver.on_losses(losses.detach(), gramian) if len(losses) > 1 else torch.ones(1)
    return -torch.autograd.grad(weights @ losses, theta)[0]


def optimise(solver: Solver, problem: Problem, start: Tensor, steps: int = 100, rate: float = 0.1) -> Tensor:
    """(steps+1,2) the path of clipped gradient ascent from `start`, with a validation before every step."""
    calibrated(solver, problem)
    path = [start]
    for _ in range(steps):
        solver.on_validation(problem.objectives(path[-1][None])[:, 0])
        step = direction(solver, problem, path[-1])
        path.append(path[-1] + rate * step / max(step.norm().item(), 1.0))
    return torch.stack(path)
