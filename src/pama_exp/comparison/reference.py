"""References that operating points are measured against: the true front, or a calibration made before training.

Legend: M operating points, F points of the true front, N objectives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pama_exp.comparison.load import Run, world_of
from pama_exp.metrics import fronts
from pama_exp.world import FactWorld

Points = NDArray[np.float64]
Means = Mapping[str, Mapping[str, float | None]]  # {objective: {"gold" or "proxy": mean reward}}


@dataclass(frozen=True)
class TrueFront:
    """FactWorld's true front: gold rewards without scaling, hypervolumes from the origin.

    Attributes:
        world: the testbed.
        programs: names of the N gold programs.
        split: the prompts that the front is of: train, validation or test.
        objectives: the run's names for the programs, in the same order.
    """

    world: FactWorld
    programs: tuple[str, ...]
    split: str = "test"
    objectives: tuple[str, ...] = ()
    name = "true front"

    @property
    def support(self) -> Points:
        """(F,N) support points, as the world enumerates them."""
        return self.world.true_front(self.programs, self.split).points

    @cached_property
    def points(self) -> Points:
        """(F,N) distinct support points, rounded to 9 digits."""
        return np.unique(np.round(self.world.true_front(self.programs, self.split).points, 9), axis=0)

    @cached_property
    def volume(self) -> float:
        """The hypervolume that the front and mixtures of its policies dominate."""
        return self.world.true_hypervolume(self.programs, self.split)

    def measure(self, points: ArrayLike) -> dict[str, float]:
        """Share of the true hypervolume, IGD+, epsilon, mean regret and spacing of (M,N) points."""
        array = np.asarray(points, dtype=np.float64)
        return {
            "share": fronts.hypervolume(array, np.zeros(array.shape[1])) / self.volume,
            "igd_plus": fronts.igd_plus(array, self.points),
            "epsilon": fronts.epsilon(array, self.points),
            "regret": float(np.mean([self.world.regret(list(p), self.programs, self.split) for p in array])),
        } | _spacing(array)

    def measure_responses(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume from the origin, and number of nondominated points, of (R,N) single responses.

        There is no share: single responses may lie beyond the front of policies.
        """
        array = np.asarray(points, dtype=np.float64)
        return _measure_responses(array, np.zeros(array.shape[1]))

    def share_of(self, means: Means) -> float:
        """The share of the true hypervolume, in [0, 1], that a policy's mean gold rewards dominate."""
        return self.world.hypervolume_share(self._gold(means), self.programs, self.split)

    def distances_of(self, means: Means) -> dict[str, float]:
        """Regret, IGD+ and additive epsilon of a policy's mean gold rewards."""
        measured = self.measure([self._gold(means)])
        return {name: measured[name] for name in ("regret", "igd_plus", "epsilon")}

    def _gold(self, means: Means) -> list[float]:
        return [float(means[name]["gold"] or 0.0) for name in self.objectives]


class NoFront:
    """Stands for a front that is not known: every method returns None."""

    support = None

    def share_of(self, means: Means) -> None:
        """None: no hypervolume is known."""

    def distances_of(self, means: Means) -> None:
        """None: no front is known."""


@dataclass(frozen=True)
class Calibrated:
    """The reference if no true front is known: rewards in units of the start policy's means and standard deviations.

    Attributes:
        calibration: means and deviations measured before training, and the hypervolume's reference point.
    """

    calibration: fronts.Calibration
    name = "calibration"

    def measure(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume and spacing of (M,N) points in calibrated units."""
        normalised = self.calibration.normalise(points)
        return {"hypervolume": fronts.hypervolume(normalised, self.calibration.reference)} | _spacing(normalised)

    def measure_responses(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume, and number of nondominated points, of (R,N) single responses in calibrated units."""
        return _measure_responses(self.calibration.normalise(points), self.calibration.reference)


def reference_of(run: Run, names: Sequence[str], kind: str) -> TrueFront | Calibrated | None:
    """The reference for a run's rewards.

    Args:
        run: finished or not.
        names: the objectives, in the order of the points to be measured.
        kind: "gold" or "proxy".

    Returns:
        On FactWorld the true front for gold rewards, None for proxy rewards. On other data the calibration that the
        run recorded, None if it recorded none.
    """
    if run.programs is not None and run.config.get("data", {}).get("domain") == "factworld":
        world = json.dumps(run.config["data"].get("world", {}), sort_keys=True)
        by_name = dict(zip(run.objectives, run.programs, strict=True))
        return _true_front(world, tuple(by_name[name] for name in names)) if kind == "gold" else None
    recorded = (run.result or {}).get("calibration")
    if not recorded:
        return None
    rows = [recorded[name]["proxy"] for name in names]
    return Calibrated(fronts.Calibration(tuple(r["mean"] for r in rows), tuple(r["deviation"] for r in rows)))


@lru_cache
def _true_front(settings: str, programs: tuple[str, ...]) -> TrueFront:
    return TrueFront(world_of(settings), programs)


def _measure_responses(points: Points, corner: Points) -> dict[str, float]:
    distinct = np.unique(points, axis=0)
    return {
        "hypervolume": fronts.hypervolume(distinct, corner),
        "nondominated": float(fronts.nondominated(distinct).sum()),
    }


def _spacing(points: Points) -> dict[str, float]:
    return {"spacing": fronts.spacing(points)} if len(points) > 1 else {}
