"""`resolve`: from a configuration to a `Setup`, which holds the objects of a run that are built before work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from pama_exp.assembly.checks import (
    check_calibration,
    check_conditioning,
    check_engine,
    check_inputs,
    check_pairs,
    check_start,
    check_training,
)
from pama_exp.assembly.method import build_estimator, build_solver
from pama_exp.assembly.objective_plans import ObjectivePlan, plan_objectives
from pama_exp.assembly.task import Task, build_task
from pama_exp.comparison.reference import NoFront, TrueFront
from pama_exp.config.domains import learns_rows_alone
from pama_exp.config.schema import Config, ObjectiveConfig
from pama_exp.rl.estimators import Estimator
from pama_exp.rollout.engine import Sampling
from pama_exp.solvers.solver import Solver
from pama_exp.supervised.start_model import StartModel


@dataclass(frozen=True)
class Setup:
    """The objects of one run, built and checked.

    The solver holds state, so use a setup for one run only, and resolve the configuration again for another.

    Attributes:
        config: the validated configuration.
        device: the device that the policy computes on.
        task: prompts, start model, gold programs and true front.
        objectives: in the configuration's order, each with its scorer; empty for a stage that learns from the rows of a
            table and scores nothing.
        solver: combines the objectives.
        estimator: turns scores into advantages.
        sampling: how responses are sampled.
    """

    config: Config
    device: torch.device
    task: Task
    objectives: tuple[ObjectivePlan, ...]
    solver: Solver
    estimator: Estimator
    sampling: Sampling

    @property
    def start(self) -> StartModel:
        """The model that the run starts from."""
        return self.task.start

    @property
    def names(self) -> list[str]:
        """The names of the objectives, in order."""
        return [plan.name for plan in self.objectives]

    @cached_property
    def gold_programs(self) -> Mapping[str, str]:
        """{objective: gold program} if every objective has a different one, else empty."""
        programs = {plan.name: plan.program for plan in self.objectives if plan.program is not None}
        return programs if len(set(programs.values())) == len(self.objectives) else {}

    def front(self, split: str) -> TrueFront | NoFront:
        """The true front of the objectives on a split (train, validation or test); `NoFront` if none is known."""
        return self.task.front(self.gold_programs, split)


def resolve(config: Config, is_here: bool = True) -> Setup:
    """Build the objects of a run, and so check its configuration. Nothing is trained.

    Args:
        config: typed and within its ranges, as `pama_exp.configure` returns it.
        is_here: whether the run will be on this machine; if not, its devices are not checked.

    Raises:
        UserError: for the first thing that is wrong.
    """
    check_inputs(config)
    task = build_task(config)
    plans = plan_objectives(_scored(config, task), config.data.domain, config.reward, task)
    solver, estimator, sampling = build_method(config, is_here)
    check_calibration(config, solver)
    check_pairs(config, solver, plans, task.has_rows)
    check_start(config, task, is_here)
    return Setup(
        config=config,
        device=torch.device("cuda" if config.trainer.uses_gpu else "cpu"),
        task=task,
        objectives=plans,
        solver=solver,
        estimator=estimator,
        sampling=sampling,
    )


def build_method(config: Config, is_here: bool = True) -> tuple[Solver, Estimator, Sampling]:
    """The solver, the advantage estimator and the sampling of a run, which need neither model nor data.

    Raises:
        UserError: for the first thing that is wrong.
    """
    estimator = build_estimator(config.advantage)
    solver = build_solver(config, estimator)
    check_conditioning(config, solver)
    check_training(config, estimator, is_here)
    check_engine(config.rollout.engine, config.adapter.bits)
    s = config.rollout.sampling
    return solver, estimator, Sampling(s.max_new_tokens, s.temperature, s.top_p, s.top_k).for_training()


def _scored(config: Config, task: Task) -> Mapping[str, ObjectiveConfig]:
    """The objectives that the stage scores; none if it learns from the rows of a table."""
    return {} if task.has_rows and learns_rows_alone(config) else config.objectives
