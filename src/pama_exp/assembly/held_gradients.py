"""The number of full gradients of the policy that a run holds at once, besides the one that the update applies."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pama_exp.config.schema import Config
from pama_exp.solvers.solver import Solver
from pama_exp.training.update import SMALL_MODEL


def asks_for(solver: Solver, count: int) -> str | None:
    """The target of the Gramian that the solver asks for with `count` losses; None if it asks for none.

    The target is "parameters", or another value that the solver passes to `gramian`.
    """

    class AskedError(Exception):
        pass

    def gramian(target: str = "parameters") -> Any:
        raise AskedError(target)

    try:
        copy.deepcopy(solver).on_losses(torch.ones(count), gramian)
    except AskedError as error:
        return str(error)
    return None


def held_gradients(config: Config, solver_target: str | None, trained: int) -> tuple[int, int]:
    """The numbers of gradients that the solver's Gramian and the diagnostics' Gramian hold on the policy's device.

    Args:
        config: of the run.
        solver_target: as `asks_for` returns it.
        trained: number of trained parameters.
    """
    t, count = config.training, len(config.objectives)

    def held(target: str) -> int:
        if target in ("last-layer", "hidden"):
            return 0
        if target == "sketch" or (t.gramian.hold == "host" and config.trainer.uses_gpu):
            return 1
        return 2 if t.gramian.hold == "one" else count + 1

    for_solver = held(t.gramian.target) if solver_target == "parameters" else 0
    is_bounded = t.diagnostics_target == "auto" and trained > SMALL_MODEL
    if t.diagnostics_every == 0 or is_bounded:
        return for_solver, 0
    return for_solver, held(t.gramian.target if t.diagnostics_target == "auto" else t.diagnostics_target)
