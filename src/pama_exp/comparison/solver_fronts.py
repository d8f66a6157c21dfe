"""The front of one solver: its operating points over preferences, and how good they are as a set.

Legend: M operating points, N objectives, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pama_exp.comparison.load import Run
from pama_exp.comparison.reference import yardstick_of
from pama_exp.comparison.statistics import Interval, interval
from pama_exp.metrics import fronts
from pama_exp.storage import html_view

Preference = tuple[float, ...]


@dataclass(frozen=True)
class Front:
    """One solver's operating points, one per preference.

    Attributes:
        family: the solver and whatever else tells it from the other families.
        preferences: M of them, each over the comparison's objectives in order.
        points: (M,N) means over the seeds.
        nondominated: for each point, whether no other of this front dominates it.
        seeds: those with every point; the measures are over these.
        per_seed: {measure: {seed: value}} of each seed's own set of points.
        measures: the same as means with intervals.
        attainment: {"25", "50", "75": points} that as many per cent of the seeds attain; empty for N > 3.
        bill: what one seed's whole front cost on average, all its runs and experts counted.
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
    """The front of a family's finished runs, over objectives `names`, by `kind` (gold or proxy) rewards."""
    yardstick = yardstick_of(runs[0], names, kind)
    table: dict[Preference, dict[int, tuple[float, ...]]] = {}
    for run in runs:
        for preference, point in operating_points(run, names, kind):
            table.setdefault(preference, {}).setdefault(run.seed, point)
    preferences = sorted(table)
    seeds = sorted(set.intersection(*(set(row) for row in table.values())))
    points = [tuple(np.mean(list(table[p].values()), axis=0).tolist()) for p in preferences]
    sets = {seed: [table[p][seed] for p in preferences] for seed in seeds}
    measured = {seed: yardstick.measure(chosen) for seed, chosen in sets.items()} if yardstick is not None else {}
    per_seed = {m: {s: values[m] for s, values in measured.items()} for m in next(iter(measured.values()), {})}
    surfaces = fronts.attainment(list(sets.values()), (25, 50, 75)) if sets and 2 <= len(names) <= 3 else {}
    return Front(
        family=family,
        preferences=tuple(preferences),
        points=tuple(points),
        nondominated=tuple(fronts.nondominated(points).tolist()),
        seeds=tuple(seeds),
        per_seed=per_seed,
        measures={m: found for m, values in per_seed.items() if (found := interval(list(values.values()))) is not None},
        attainment={str(level): tuple(map(tuple, surface.tolist())) for level, surface in surfaces.items()},
        bill=_bill_per_seed(runs),
        objectives=tuple(names),
    )


def operating_points(run: Run, names: Sequence[str], kind: str) -> list[tuple[Preference, tuple[float, ...]]]:
    """Where a finished run stands: one point, or the many of a soup or of a policy that is told its preference."""
    assert run.result is not None
    many = run.result.get("points")
    if many:
        rows = [(point["preference"], point["objectives"]) for point in many]
    else:
        rows = [(run.preference, {name: run.result["objectives"][name]["after"] for name in names})]
    return [
        (tuple(round(preference[name], 6) for name in names), tuple(means[name][kind] for name in names))
        for preference, means in rows
    ]


def _bill_per_seed(runs: Sequence[Run]) -> dict[str, float]:
    """Sums over a seed's runs, the highest of their peaks, averaged over seeds."""
    totals: dict[int, dict[str, float]] = {}
    for run in runs:
        bill = totals.setdefault(run.seed, {})
        for key, value in ((run.result or {}).get("bill") or {}).items():
            bill[key] = max(bill.get(key, 0), value) if key == "peak_memory_bytes" else bill.get(key, 0) + value
    keys = {key: None for bill in totals.values() for key in bill}
    return {key: float(np.mean([bill.get(key, 0) for bill in totals.values()])) for key in keys}
