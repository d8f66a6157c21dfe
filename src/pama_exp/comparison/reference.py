"""What operating points are measured against: the world's true front, or a calibration recorded before training.

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
Means = Mapping[str, Mapping[str, float | None]]  # {objective: {gold, proxy}}


@dataclass(frozen=True)
class TrueFront:
    """FactWorld's own front: gold rewards as they are, volumes from the origin, as shares of the true volume."""

    world: FactWorld
    programs: tuple[str, ...]
    split: str = "test"
    objectives: tuple[str, ...] = ()  # what a run calls the programs, in their order
    name = "true front"

    @property
    def support(self) -> Points:
        """(F,N) support points as the world enumerates them."""
        return self.world.true_front(self.programs, self.split).points

    @cached_property
    def points(self) -> Points:
        """(F,N) distinct support points."""
        return np.unique(np.round(self.world.true_front(self.programs, self.split).points, 9), axis=0)

    @cached_property
    def volume(self) -> float:
        """What it dominates, mixtures of policies included."""
        return self.world.true_hypervolume(self.programs, self.split)

    def measure(self, points: ArrayLike) -> dict[str, float]:
        """Share of the true hypervolume, IGD+, epsilon, mean regret and spacing of (M,N) points."""
        given = np.asarray(points, dtype=np.float64)
        return {
            "share": fronts.hypervolume(given, np.zeros(given.shape[1])) / self.volume,
            "igd_plus": fronts.igd_plus(given, self.points),
            "epsilon": fronts.epsilon(given, self.points),
            "regret": float(np.mean([self.world.regret(list(p), self.programs, self.split) for p in given])),
        } | _spacing(given)

    def measure_responses(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume from the origin of (R,N) single responses; no share, as they may exceed the front of policies."""
        given = np.asarray(points, dtype=np.float64)
        return _as_responses(given, np.zeros(given.shape[1]))

    def share_of(self, means: Means) -> float:
        """The share of the true hypervolume that a policy's mean gold rewards dominate."""
        return self.world.hypervolume_share(self._gold(means), self.programs, self.split)

    def distances_of(self, means: Means) -> dict[str, float]:
        """Regret, IGD+ and additive epsilon of a policy's mean gold rewards."""
        measured = self.measure([self._gold(means)])
        return {name: measured[name] for name in ("regret", "igd_plus", "epsilon")}

    def _gold(self, means: Means) -> list[float]:
        return [float(means[name]["gold"] or 0.0) for name in self.objectives]


class NoFront:
    """No front is known: every question about it is answered by None."""

    support = None

    def share_of(self, means: Means) -> None:
        """There is no volume to have a share of."""

    def distances_of(self, means: Means) -> None:
        """There is nothing to be far from."""


@dataclass(frozen=True)
class Calibrated:
    """No true front: rewards in the SFT policy's own means and deviations, volumes from a corner frozen below it."""

    calibration: fronts.Calibration
    name = "calibration"

    def measure(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume and spacing of (M,N) points in calibrated units."""
        given = self.calibration.normalise(points)
        return {"hypervolume": fronts.hypervolume(given, self.calibration.reference)} | _spacing(given)

    def measure_responses(self, points: ArrayLike) -> dict[str, float]:
        """Hypervolume of (R,N) single responses in calibrated units."""
        return _as_responses(self.calibration.normalise(points), self.calibration.reference)


def yardstick_of(run: Run, names: Sequence[str], kind: str) -> TrueFront | Calibrated | None:
    """What `kind` rewards, in the order of `names`, are measured against.

    The true front for gold rewards of FactWorld, and nothing for learned stand-ins of them; off FactWorld the run's
    recorded calibration, if it has one.
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


def _as_responses(points: Points, corner: Points) -> dict[str, float]:
    distinct = np.unique(points, axis=0)
    return {
        "hypervolume": fronts.hypervolume(distinct, corner),
        "nondominated": float(fronts.nondominated(distinct).sum()),
    }


def _spacing(points: Points) -> dict[str, float]:
    return {"spacing": fronts.spacing(points)} if len(points) > 1 else {}
