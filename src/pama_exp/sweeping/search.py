"""The search sweeper, `hydra/sweeper=pareto`: runs the trials that an Optuna study proposes, and writes the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pama_exp.config.domains import program_of
from pama_exp.config.schema import Config
from pama_exp.errors import UserError
from pama_exp.sweeping.jobs import Job, State, final_means
from pama_exp.sweeping.sweep import Sweep, parse, reported_mistakes
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pama_exp.sweeping.study import Study


def run_search(
    context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    arguments: Sequence[str],
    params: Any,
    trials: int,
    sampler: str,
    population: int,
    batch: int | None,
    seed: int,
) -> dict[str, Any]:
    """Run trials until the study has `trials` of them. The same command resumes the same study.

    Args:
        context, config, task_function: Hydra's. `config` has the node `hydra`; launchers of Hydra call `task_function`.
        arguments: overrides of the command line.
        params: {key: values} of a preset.
        trials: number of trials.
        sampler: nsga2, tpe, random or grid.
        population: trials per generation of nsga2.
        batch: trials at a time; None for as many as the launcher runs at a time.
        seed: of the sampler.

    Returns:
        The content of front.json.

    Raises:
        SystemExit: with status 2 for a mistake, before any job starts; otherwise as `Sweep.conclude`.
    """
    with reported_mistakes():
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=pareto needs Optuna.", "It is an extra: pip install 'pama-exp[search]'.")
        from pama_exp.sweeping.pareto_trials import ParetoFront
        from pama_exp.sweeping.space import Space
        from pama_exp.sweeping.study import Study

        if batch is not None and batch < 1:
            raise UserError(f"hydra.sweeper.batch={batch}.", "Give a positive number, or null.")
        space = Space.of(parse(context, params, arguments))
        identity = [sorted(set(space.fixed) - {"force=true"}), str(space.distributions), sampler, seed]
        sweep = Sweep(context, config, task_function, identity)
        configs = [sweep.plan.check(space.line(values)) for values in space.corners()]
        objectives = configs[0].objectives
        directions = {name: node.direction for name, node in objectives.items()}
        with RunRecord(sweep.folder).make().lock():
            study = Study(sweep.folder, space, directions, sampler, population, trials, seed)
            front = ParetoFront(sweep.folder, directions, _worst(configs[0]))
            at_a_time: int = batch if batch is not None else getattr(sweep.runner, "workers", 1)
            while proposed := study.unfinished() or study.ask(at_a_time):
                _run_batch(sweep, study, proposed, list(objectives))
                front.write(study.complete(), {job.number: job for job in sweep.jobs})
                if sweep.signum is not None:
                    break
            content = front.write(study.complete(), {job.number: job for job in sweep.jobs})
            front.show(content, len(study.finished()) - len(study.complete()))
            before = [Path(trial["folder"]) for trial in content["trials"]]
            sweep.conclude(list(dict.fromkeys([*before, *(job.folder for job in sweep.jobs)])))
    return content


def _run_batch(sweep: Sweep, study: Study, trials: Sequence[FrozenTrial], names: Sequence[str]) -> None:
    """Run these trials and tell the study their results. A trial that a signal stopped stays unfinished."""
    jobs: dict[int, Job] = {}
    by_line: dict[tuple[str, ...], Job] = {}  # a sampler may propose the same settings twice
    for trial in trials:
        line = study.space.line(trial.params)
        label = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        try:
            job = by_line.get(tuple(line)) or sweep.plan.job(trial.number, line, label)
        except UserError as error:  # settings that cannot be combined
            note(f"{error.message} {error.hint}")
            study.tell(trial.number, None)
            continue
        jobs[trial.number] = by_line[tuple(line)] = job
    numbers = sorted(jobs)
    if not numbers:
        return
    title = f"Trials {numbers[0]} to {numbers[-1]} of {study.trials}, {sweep.folder.name}"
    sweep.run(list(by_line.values()), title)
    for number, job in jobs.items():
        if job.state in (State.FINISHED, State.FAILED):
            study.tell(number, _values(job, names))


def _values(job: Job, names: Sequence[str]) -> list[float] | None:
    """The objectives' mean rewards after training; None unless all are known and finite."""
    result = job.result() if job.state is State.FINISHED else None
    means: Mapping[str, float | None] = final_means(result) if result is not None else {}
    values = [means.get(name) for name in names]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return finite if len(finite) == len(names) else None


def _worst(config: Config) -> list[float] | None:
    """The worst value of each objective: of [0, 1] for gold programs, else of its range; None if one is unknown."""
    worst = []
    for node in config.objectives.values():
        known = (0.0, 1.0) if program_of(node.scorers, config.data.domain) is not None else node.range
        if known is None:
            return None
        worst.append(known[0] if node.direction == "maximize" else known[1])
    return worst


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
