"""Building a run's solver and advantage estimator, and checking that they can be used together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pama_exp.config.instantiate import build, locate, parameters, require
from pama_exp.config.naming import solver_label
from pama_exp.config.ranges import Range, check
from pama_exp.config.schema import Config, ObjectiveConfig
from pama_exp.errors import UserError
from pama_exp.rl.estimators import Estimator
from pama_exp.solvers.solver import Solver


def build_estimator(settings: Mapping[str, Any]) -> Estimator:
    """The advantage estimator that `advantage` describes.

    Raises:
        UserError: for an unknown setting or a value outside its range.
    """
    estimator: Estimator = build(settings, "advantage")
    require(estimator, "advantage", "estimator", ("estimate", "label", "group_size", "needs_critic"))
    return estimator


def objective_weights(solver: Mapping[str, Any], objectives: Mapping[str, ObjectiveConfig]) -> list[float]:
    """One weight per objective: from `solver.weights` if set, else from the objectives' own weights.

    Raises:
        UserError: if there are more or fewer weights than objectives.
    """
    weights = solver.get("weights")
    check(weights, Sequence[Annotated[float, Range(least=0)]] | None, "solver.weights")
    check(solver.get("name", ""), str, "solver.name")
    weights = [float(w) for w in ([o.weight for o in objectives.values()] if weights is None else weights)]
    if len(weights) != len(objectives):
        raise UserError(
            f"solver.weights={weights} has {len(weights)} values for {len(objectives)} objectives "
            f"({', '.join(objectives)}).",
            "Give one weight per objective, in their order.",
        )
    return weights


def build_solver(config: Config, estimator: Estimator) -> Solver:
    """The solver, with the weights of the objectives and, if it takes one, the number of responses per prompt.

    Raises:
        UserError: if the weights do not match the objectives, are negative or all zero, or if the solver cannot be used
            with the advantage estimator, the normalisers or the frequency of evaluations.
    """
    arguments: dict[str, Any] = {"weights": objective_weights(config.solver, config.objectives)}
    if "group_size" in parameters(locate(config.solver, "solver")):
        arguments["group_size"] = estimator.group_size
    settings = {key: value for key, value in config.solver.items() if key not in ("weights", "name")}
    solver: Solver = build(settings, "solver", **arguments)
    require(solver, "solver", "solver", ("on_rewards", "on_advantages", "on_losses", "needs_calibration"))
    _check_solver(config, solver, estimator.label)
    return solver


def _check_solver(config: Config, solver: Solver, estimator: str) -> None:
    label = solver_label(config.solver)
    if solver.estimators and estimator not in solver.estimators:
        options = [" advantage.baseline=".join(["advantage=group", e.split("/")[1]]) for e in solver.estimators]
        raise UserError(
            f"solver={label} is not defined for the advantage '{estimator}'.", f"Add {' or '.join(options)}."
        )
    if solver.needs_validation and config.training.evaluate_every < 1:
        raise UserError(
            f"solver={label} is steered by validation, and training.evaluate_every={config.training.evaluate_every}.",
            "Set training.evaluate_every to a number of steps.",
        )
    moving = [name for name, node in config.objectives.items() if node.normaliser == "running"]
    if solver.needs_calibration and moving:
        raise UserError(
            f"solver={label} freezes a point of the rewards, and objectives.{moving[0]}.normaliser=running moves them.",
            "Use the normaliser frozen, or none.",
        )
