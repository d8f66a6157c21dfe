"""Launchers and sweepers under the names that Hydra asks for.

Every Hydra application of this environment imports this file when it starts: what is heavy waits until it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """`hydra/launcher=processes`; the settings are those of pama_exp.sweeping.pool.Workers."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.workers = settings.get("workers")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config

    def make_runner(self) -> Any:
        """What runs jobs, one process each."""
        from pama_exp.sweeping.pool import Workers

        return Workers(**self.settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by sweepers that are not ours."""
        from pama_exp.sweeping.sweep import launch

        return launch(self.context, self.config, self.make_runner(), job_overrides, initial_job_idx)


class RayLauncher(ProcessLauncher):
    """`hydra/launcher=ray`; the settings are those of pama_exp.sweeping.ray_runner.RayRunner."""

    def make_runner(self) -> Any:
        """What runs jobs, one process each, where Ray says."""
        from pama_exp.sweeping.ray_runner import RayRunner

        return RayRunner(**self.settings)


class GridSweeper(Sweeper):
    """The default; see pama_exp.sweeping.sweep."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.config, self.task_function = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with the command line."""
        from pama_exp.sweeping.sweep import run_grid

        return run_grid(self.context, self.config, self.task_function, arguments, **self.settings)


class ParetoSweeper(GridSweeper):
    """`hydra/sweeper=pareto`: see pama_exp.sweeping.search."""

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with the command line."""
        from pama_exp.sweeping.search import run_search

        return run_search(self.context, self.config, self.task_function, arguments, **self.settings)
