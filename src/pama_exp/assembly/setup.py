"""One run, resolved: every object that can be built before work starts, built once; what cannot be built is refused."""

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
    """Everything that a stage needs to know of its run.

    The solver holds state, so a setup serves one run: resolve the configuration again for another.

    Attributes:
        config: the validated configuration.
        device: where the policy computes.
        task: prompts, the model to start from, and what is known of the rewards.
        objectives: in the order given, each with its scorer chosen for the data domain; empty where the stage learns
            from the rows of a table and scores nothing.
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
        """The objectives' names."""
        return [plan.name for plan in self.objectives]

    @cached_property
    def gold_programs(self) -> Mapping[str, str]:
        """{objective: gold program} where every objective has one of its own, else empty."""
        found = {plan.name: plan.program for plan in self.objectives if plan.program is not None}
        return found if len(set(found.values())) == len(self.objectives) else {}

    def front(self, split: str) -> TrueFront | NoFront:
        """The true front of the objectives on a split, or what answers None where none is known."""
        return self.task.front(self.gold_programs, split)


def resolve(config: Config, is_here: bool = True) -> Setup:
    """Build what a run needs, and by that check it; nothing is trained, fetched or written.

    Args:
        config: typed and within its ranges, as `pama_exp.configure` returns it.
        is_here: whether the run is to happen on this machine; otherwise its devices are not looked for.

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
    """What of a run needs neither model nor data: solver, estimator and sampling, checked against the settings.

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
    """The objectives that the stage scores by; none where it learns from the rows of a table."""
    return {} if task.has_rows and learns_rows_alone(config) else config.objectives
