"""How many whole gradients of the policy a run holds at once, besides the update's own."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pama_exp.config.schema import Config
from pama_exp.solvers.solver import Solver
from pama_exp.training.update import SMALL_MODEL


def asks_for(solver: Solver, count: int) -> str | None:
    """Of what the solver wants the gradients of `count` losses compared; None: it does not look at gradients."""

    class Asked(Exception):
        pass

    def gramian(target: str = "parameters") -> Any:
        raise Asked(target)

    try:
        copy.deepcopy(solver).on_losses(torch.ones(count), gramian)
    except Asked as asked:
        return str(asked)
    return None


def held_gradients(config: Config, asked: str | None, trained: int) -> tuple[int, int]:
    """Those that the solver's Gramian takes, and those that the diagnostics' takes, on the policy's device.

    Args:
        config: of the run.
        asked: as `asks_for` has it.
        trained: parameters.
    """
    t, count = config.training, len(config.objectives)

    def held(target: str) -> int:
        if target in ("last-layer", "hidden"):
            return 0
        if target == "sketch" or (t.gramian.hold == "host" and config.trainer.uses_gpu):
            return 1
        return 2 if t.gramian.hold == "one" else count + 1

    for_solver = held(t.gramian.target) if asked == "parameters" else 0
    is_bounded = t.diagnostics_target == "auto" and trained > SMALL_MODEL
    if t.diagnostics_every == 0 or is_bounded:
        return for_solver, 0
    return for_solver, held(t.gramian.target if t.diagnostics_target == "auto" else t.diagnostics_target)
