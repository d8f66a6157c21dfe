"""An Optuna study in a sweep's folder: asked for trials, told what became of them, whole again after any kill."""

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
    "grid": lambda seed, _: RandomSampler(seed=seed),  # never drawn from: all combinations are queued
}


class Study:
    """A multi-objective study in `journal.log`.

    Args:
        folder: of the sweep, which this process has locked.
        space: what to draw from.
        directions: {objective: maximize or minimize}.
        sampler: nsga2, tpe, random or grid.
        population: trials per generation of nsga2.
        trials: how many in all.
        seed: of the sampler.

    Raises:
        UserError: for an unknown sampler, a number out of range, or a grid over an interval.
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
        _drop_half_a_line(journal)
        backend = JournalFileBackend(str(journal), lock_obj=_FolderIsLocked())
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name=folder.name,
                directions=list(directions.values()),
                load_if_exists=True,
            )
        except (ValueError, LookupError, TypeError, AttributeError):  # what Optuna makes of lines it did not write
            raise UserError(
                f"The study {journal} is damaged.",
                "Bring the file back from a copy; or delete it: the search begins again, and finished runs are kept.",
            ) from None
        # A sampler that began again with the same seed would propose what was tried before.
        self._study.sampler = SAMPLERS[sampler](seed + 1000003 * len(self._study.trials), population)
        for values in grid:
            self._study.enqueue_trial(values, skip_if_exists=True)

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that a sweep before this one asked for, and was stopped before it could tell."""
        running = self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        whole = [trial for trial in running if set(trial.params) == set(self.space.distributions)]
        for trial in running:
            if trial not in whole:  # killed in the middle of asking
                self.tell(trial.number, None)
        return whole

    def ask(self, count: int) -> list[FrozenTrial]:
        """Up to `count` trials more, none once there are `trials`."""
        asked = []
        for _ in range(min(count, self.trials - len(self.told()) - len(self.unfinished()))):
            with warnings.catch_warnings():  # a sampler's opinion of choices that are strings of numbers
                warnings.simplefilter("ignore")
                number = self._study.ask(dict(self.space.distributions)).number
            asked.append(self._study.trials[number])
        return asked

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """The objectives' values of a trial; None where it failed."""
        if values is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, list(values))

    def told(self) -> list[FrozenTrial]:
        """Trials that came to an end, well or not."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def complete(self) -> list[FrozenTrial]:
        """Trials with values."""
        return list(self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


class _FolderIsLocked:
    """The sweep's folder is locked as a whole; a lock file of Optuna's would outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _drop_half_a_line(path: Path) -> None:
    """What a kill in the middle of writing leaves; Optuna would write on behind it and never read again."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def describe(trial: FrozenTrial) -> dict[str, Any]:
    """As front.json keeps it."""
    return {"trial": trial.number, "params": dict(trial.params), "values": list(trial.values)}
