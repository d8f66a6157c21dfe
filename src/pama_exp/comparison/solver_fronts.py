"""The front of one solver: its operating points over preferences, and how good they are as a set.

Legend: M operating points, N objectives, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pama_exp.comparison.load import Run
from pama_exp.comparison.reference import reference_of
from pama_exp.comparison.statistics import Interval, interval
from pama_exp.metrics import fronts
from pama_exp.storage import html_view

Preference = tuple[float, ...]


@dataclass(frozen=True)
class Front:
    """The operating points of one family of runs, one per preference.

    Attributes:
        family: the solver, and the settings in which it differs from other families.
        preferences: (M,N) shares, in the order of the comparison's objectives.
        points: (M,N) mean rewards over the seeds.
        nondominated: (M,) whether no other point of this front dominates the point.
        seeds: the seeds that have every point; the measures are over these.
        per_seed: {measure: {seed: value}} of each seed's set of points.
        measures: {measure: mean and interval over seeds}.
        attainment: {"25", "50" or "75": points of the surface that this per cent of the seeds attain}; only for N of 2
            or 3.
        bill: {cost: mean over seeds} of a seed's whole front, with all its runs and experts.
        objectives: names of the points' columns.
    """

    family: str
    preferences: tuple[Preference, ...]
    points: tuple[tuple[float, ...], ...]
    nondominated: tuple[bool, ...]
    seeds: tuple[int, ...]
    per_seed: Mapping[str, Mapping[int, float]]
    measures: Mapping[str, Interval]
    attainment: Mapping[str, tuple[tuple[float, ...], ...]]
    bill: Mapping[str, float]
    objectives: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """What a notebook shows: the points by preference, plotted where there are two objectives."""
        names = self.objectives or tuple(f"objective {i + 1}" for i in range(len(self.points[0])))
        rows = [
            [" : ".join(f"{w:.2g}" for w in p), *point] for p, point in zip(self.preferences, self.points, strict=True)
        ]
        shown = html_view.table(f"Front of {self.family}", ["preference", *names], rows)
        return shown + (html_view.plot(names, {self.family: self.points}) if len(names) == 2 else "")


def front_of(family: str, runs: Sequence[Run], names: Sequence[str], kind: str) -> Front:
    """The front of a family's finished runs.

    Args:
        family: its label.
        runs: finished.
        names: the objectives, in order.
        kind: "gold" or "proxy" rewards.
    """
    reference = reference_of(runs[0], names, kind)
    table: dict[Preference, dict[int, tuple[float, ...]]] = {}
    for run in runs:
        for preference, point in operating_points(run, names, kind):
            table.setdefault(preference, {}).setdefault(run.seed, point)
    preferences = sorted(table)
    seeds = sorted(set.intersection(*(set(row) for row in table.values())))
    points = [tuple(np.mean(list(table[p].values()), axis=0).tolist()) for p in preferences]
    sets = {seed: [table[p][seed] for p in preferences] for seed in seeds}
    measured = {seed: reference.measure(points) for seed, points in sets.items()} if reference is not None else {}
    per_seed = {m: {s: values[m] for s, values in measured.items()} for m in next(iter(measured.values()), {})}
    surfaces = fronts.attainment(list(sets.values()), (25, 50, 75)) if sets and 2 <= len(names) <= 3 else {}
    return Front(
        family=family,
        preferences=tuple(preferences),
        points=tuple(points),
        nondominated=tuple(fronts.nondominated(points).tolist()),
        seeds=tuple(seeds),
        per_seed=per_seed,
        measures={m: ci for m, values in per_seed.items() if (ci := interval(list(values.values()))) is not None},
        attainment={str(level): tuple(map(tuple, surface.tolist())) for level, surface in surfaces.items()},
        bill=_bill_per_seed(runs),
        objectives=tuple(names),
    )


def operating_points(run: Run, names: Sequence[str], kind: str) -> list[tuple[Preference, tuple[float, ...]]]:
    """(preference, point) of a finished run, both (N,): one, or several for a soup or a conditioned policy."""
    assert run.result is not None
    points = run.result.get("points")
    if points:
        rows = [(point["preference"], point["objectives"]) for point in points]
    else:
        rows = [(run.preference, {name: run.result["objectives"][name]["after"] for name in names})]
    return [
        (tuple(round(preference[name], 6) for name in names), tuple(means[name][kind] for name in names))
        for preference, means in rows
    ]


def _bill_per_seed(runs: Sequence[Run]) -> dict[str, float]:
    """Each cost summed over a seed's runs (of peak memory the maximum), then averaged over seeds."""
    totals: dict[int, dict[str, float]] = {}
    for run in runs:
        bill = totals.setdefault(run.seed, {})
        for key, value in ((run.result or {}).get("bill") or {}).items():
            bill[key] = max(bill.get(key, 0), value) if key == "peak_memory_bytes" else bill.get(key, 0) + value
    keys = {key: None for bill in totals.values() for key in bill}
    return {key: float(np.mean([bill.get(key, 0) for bill in totals.values()])) for key in keys}
