"""Running a sweep: plan, run, watch and report its jobs; and the default sweeper, a grid of all combinations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from pama_exp.config.naming import digest, slug
from pama_exp.errors import UserError
from pama_exp.report import write_report
from pama_exp.safety.secrets import redact
from pama_exp.sweeping.jobs import Job, State, write_sweep
from pama_exp.sweeping.plan import Plan
from pama_exp.sweeping.table import Watch, sweep_summary
from pama_exp.tracking.console import note, print_error
from pama_exp.tracking.record import RunRecord


class Runner(Protocol):
    """A launcher: runs jobs."""

    def run(self, jobs: Sequence[Job], tick: Callable[[], None]) -> int | None:
        """Run the waiting jobs, and call `tick` whenever a state may have changed.

        Returns:
            The number of the signal that stopped it; None if there was none.
        """
        ...


class HydraLauncher:
    """Runs jobs by one of Hydra's launchers (joblib, Submitit), which calls the task function in its workers."""

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher

    def run(self, jobs: Sequence[Job], tick: Callable[[], None]) -> int | None:
        """Run the waiting jobs, all in one call. A job is finished if its record is complete. Returns None."""
        waiting = [job for job in jobs if job.state is State.WAITING]
        if not waiting:
            return None
        for job in waiting:
            job.attempts, job.state = 1, State.RUNNING
        tick()
        returned: Sequence[JobReturn | None] = [None] * len(waiting)
        try:
            returned = self.launcher.launch([list(job.overrides) for job in waiting], waiting[0].number)
        except Exception as error:  # a worker died; the other jobs' results are in their records
            note(f"The launcher stopped: {_first_line(error)}")
        for job, back in zip(waiting, returned, strict=True):
            if job.record.is_complete and (back is None or back.status is JobStatus.COMPLETED):
                job.state = State.FINISHED
            else:
                job.state = State.FAILED
                job.reason = _first_line(back._return_value) if back is not None else "its worker died"
        tick()
        return None


class Sweep:
    """One sweep: its folder, its plan, its runner and its jobs.

    Args:
        context, config, task_function: Hydra's. `config` has the node `hydra`; launchers of Hydra call `task_function`.
        identity: plain values; the same identity gives the same folder.
    """

    def __init__(self, context: HydraContext, config: DictConfig, task_function: TaskFunction, identity: Any) -> None:
        setup_globals()
        preset = config.hydra.runtime.choices.get("sweep") or "sweep"
        self.folder = Path(config.hydra.sweep.dir).absolute() / f"{slug(preset)}-{digest(identity)}"
        with open_dict(config):
            config.hydra.sweep.dir = str(self.folder)
        self.plan = Plan(context.config_loader, config, self.folder)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )
        self.runner: Runner = launcher.make_runner() if hasattr(launcher, "make_runner") else HydraLauncher(launcher)
        self.jobs: list[Job] = []
        self.signum: int | None = None

    def run(self, jobs: Sequence[Job], title: str) -> None:
        """Run these jobs as part of the sweep."""
        self.jobs.extend(jobs)
        (self.folder / "logs").mkdir(exist_ok=True)
        seen: list[State] = []

        def tick() -> None:
            states = [job.state for job in jobs]
            if states != seen:
                seen[:] = states
                write_sweep(self.folder / "sweep.json", [redact(word) for word in sys.argv], jobs)
            watch.refresh()

        with Watch(title, jobs) as watch:
            tick()
            self.signum = self.runner.run(jobs, tick)

    def conclude(self, folders: Sequence[Path]) -> None:
        """Print the summary, write the report of the runs in `folders`, and end the process if not all is well.

        Raises:
            SystemExit: with status 1 if a job is not finished, 128 + n after signal n.
        """
        sweep_summary(self.jobs, self.folder)
        if self.signum is not None:
            sys.exit(128 + self.signum)
        self._report([folder for folder in folders if (folder / "config.yaml").exists()])
        if any(job.state is not State.FINISHED for job in self.jobs):
            sys.exit(1)

    def _report(self, folders: Sequence[Path]) -> None:
        if not folders:
            return
        try:
            note(f"Report: {write_report(folders, self.folder / 'report')}")
        except UserError as error:  # a sweep of a stage that aligns nothing
            note(f"No report: {error.message}")


def run_grid(
    context: HydraContext, config: DictConfig, task_function: TaskFunction, arguments: Sequence[str], params: Any
) -> list[dict[str, Any] | None]:
    """Run every combination of the values. Values of the command line replace those of a preset.

    Args:
        context, config, task_function: Hydra's. `config` has the node `hydra`; launchers of Hydra call `task_function`.
        arguments: overrides of the command line.
        params: {key: values} of a preset.

    Returns:
        The result of each job.

    Raises:
        SystemExit: with status 2 for a mistake, before any job starts; otherwise as `Sweep.conclude`.
    """
    with reported_mistakes():
        parsed = parse(context, params, arguments)
        try:
            [lines] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        except HydraException:
            raise UserError(
                "A grid has no end of values between two numbers.", "Search an interval with hydra/sweeper=pareto."
            ) from None
        sweep = Sweep(context, config, task_function, [sorted(set(line) - {"force=true"}) for line in lines])
        jobs = sweep.plan.jobs(lines)
        with RunRecord(sweep.folder).make().lock():
            sweep.run(jobs, f"Sweep {sweep.folder.name}")
            sweep.conclude([job.folder for job in jobs])
    return [job.result() for job in jobs]


def launch(
    context: HydraContext, config: DictConfig, runner: Runner, lines: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run the jobs of another sweeper (one that is not of this package).

    Args:
        context, config: Hydra's. `config` has the node `hydra`.
        runner: runs the jobs.
        lines: the overrides of each job.
        first: number of the first job.

    Returns:
        Hydra's `JobReturn` of each job. Reading the value of a failed one raises SystemExit.
    """
    with reported_mistakes():
        plan = Plan(context.config_loader, config, Path(config.hydra.sweep.dir).absolute())
        (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
        jobs = [plan.job(first + n, line, " ".join(line)) for n, line in enumerate(lines)]
        with Watch(f"Jobs {first} to {first + len(jobs) - 1}", jobs) as watch:
            signum = runner.run(jobs, watch.refresh)
        sweep_summary(jobs, plan.folder)
        if signum is not None:
            sys.exit(128 + signum)
    returned = []
    for job in jobs:
        finished = job.state is State.FINISHED
        back = JobReturn(overrides=job.overrides, working_dir=str(job.folder))
        back.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
        back.return_value = job.result() if finished else SystemExit(1)
        returned.append(back)
    return returned


def parse(context: HydraContext, params: Any, arguments: Sequence[str]) -> list[Override]:
    """The parsed overrides of a preset's params, and then of the command line."""
    lines = [f"{key}={value}" for key, value in (params or {}).items()]
    return list(OverridesParser.create(config_loader=context.config_loader).parse_overrides([*lines, *arguments]))


@contextmanager
def reported_mistakes() -> Iterator[None]:
    """Print a `UserError` of the block in two lines and exit with status 2; Hydra would show a traceback."""
    try:
        yield
    except UserError as error:
        print_error(error)
        sys.exit(2)


def _first_line(error: object) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
