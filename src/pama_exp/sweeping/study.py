"""An Optuna study in a sweep's folder, which proposes trials and can be resumed after the process was killed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pama_exp.errors import UserError, suggest
from pama_exp.sweeping.space import Space

SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "nsga2": lambda seed, population: NSGAIISampler(population_size=population, seed=seed),
    "tpe": lambda seed, _: TPESampler(seed=seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "grid": lambda seed, _: RandomSampler(seed=seed),  # not used: all combinations are queued
}


class Study:
    """A multi-objective study, stored in the sweep's `journal.log`.

    Args:
        folder: of the sweep, locked by this process.
        space: the search space.
        directions: {objective: maximize or minimize}.
        sampler: nsga2, tpe, random or grid.
        population: trials per generation of nsga2.
        trials: number of trials; a grid has as many as it has combinations.
        seed: of the sampler.

    Raises:
        UserError: for an unknown sampler, a number out of range, a grid over an interval, or a damaged journal.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        directions: Mapping[str, str],
        sampler: str,
        population: int,
        trials: int,
        seed: int,
    ) -> None:
        if sampler not in SAMPLERS:
            raise UserError(f"hydra.sweeper.sampler={sampler}.", suggest(sampler, SAMPLERS))
        if trials < 1:
            raise UserError(f"hydra.sweeper.trials={trials}.", "Give a positive number.")
        if population < 2:
            raise UserError(f"hydra.sweeper.population={population}.", "nsga2 crosses at least 2.")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        grid = space.grid() if sampler == "grid" else []
        self.space = space
        self.trials = len(grid) if grid else trials
        journal = folder / "journal.log"
        _drop_partial_line(journal)
        backend = JournalFileBackend(str(journal), lock_obj=_FolderIsLocked())
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name=folder.name,
                directions=list(directions.values()),
                load_if_exists=True,
            )
        except (ValueError, LookupError, TypeError, AttributeError):  # raised by Optuna for damaged lines
            raise UserError(
                f"The study {journal} is damaged.",
                "Bring the file back from a copy; or delete it: the search begins again, and finished runs are kept.",
            ) from None
        # With the same seed, a new sampler would propose earlier trials again.
        self._study.sampler = SAMPLERS[sampler](seed + 1000003 * len(self._study.trials), population)
        for values in grid:
            self._study.enqueue_trial(values, skip_if_exists=True)

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that an earlier sweep proposed and did not finish."""
        running = self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        with_params = [trial for trial in running if set(trial.params) == set(self.space.distributions)]
        for trial in running:
            if trial not in with_params:  # the sweep was killed while the trial was proposed
                self.tell(trial.number, None)
        return with_params

    def ask(self, count: int) -> list[FrozenTrial]:
        """Up to `count` new trials; none once the study has `trials`."""
        proposed = []
        for _ in range(min(count, self.trials - len(self.finished()) - len(self.unfinished()))):
            with warnings.catch_warnings():  # samplers warn of choices that are not numbers
                warnings.simplefilter("ignore")
                number = self._study.ask(dict(self.space.distributions)).number
            proposed.append(self._study.trials[number])
        return proposed

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Tell the study the objectives' values of a trial; None for a failed trial."""
        if values is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, list(values))

    def finished(self) -> list[FrozenTrial]:
        """Trials that completed or failed."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def complete(self) -> list[FrozenTrial]:
        """Trials that completed, with their values."""
        return list(self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


class _FolderIsLocked:
    """A lock that does nothing: the sweep's folder is locked already, and Optuna's lock file would outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _drop_partial_line(path: Path) -> None:
    """Cut off a last line that was not written completely: Optuna could not read the file any more."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def describe(trial: FrozenTrial) -> dict[str, Any]:
    """A completed trial as an entry of front.json: {trial, params, values}."""
    return {"trial": trial.number, "params": dict(trial.params), "values": list(trial.values)}
