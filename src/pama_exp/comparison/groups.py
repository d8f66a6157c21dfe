"""Finished runs of one configuration, seeds apart: what they are called, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pama_exp.comparison.load import Run
from pama_exp.comparison.reference import yardstick_of
from pama_exp.comparison.statistics import Interval, interval

METHOD = ("solver.", "conditioning.", "dpo.", "stage")  # what a comparison may differ in and still be controlled


@dataclass(frozen=True)
class Group:
    """Finished runs of one configuration, seeds apart.

    Attributes:
        label: solver, and what tells this group from the others.
        family: the label without the preference.
        solver: the solver's name.
        preference: {objective: share}.
        settings: the keys in which this group differs from another, and its values.
        runs: one per seed, in order of seeds.
        rewards: {objective: {"gold" or "proxy": {"before" or "after": interval over seeds}}}.
        measures: of the operating point against the comparison's yardstick: share, igd_plus, epsilon, regret, or
            hypervolume where there is no true front.
        values: {objective or measure: {seed: value}} behind the tests.
        responses: hypervolume and number of the nondominated among the recorded single test responses, which spread far
            beyond what a policy attains on average and so are never mixed with `measures`.
        bill: means over the runs.
    """

    label: str
    family: str
    solver: str
    preference: Mapping[str, float]
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    rewards: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    measures: Mapping[str, Interval]
    values: Mapping[str, Mapping[int, float]]
    responses: Mapping[str, Interval]
    bill: Mapping[str, float]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In order."""
        return tuple(run.seed for run in self.runs)


def has_gold(run: Run) -> bool:
    """Whether a finished run knows the gold reward of every objective."""
    assert run.result is not None
    return all(means["after"]["gold"] is not None for means in run.result["objectives"].values())


def members(runs: Sequence[Run]) -> tuple[dict[str, list[Run]], list[str]]:
    """Runs by configuration and preference, one per seed, and a warning for each that is there twice."""
    found: dict[str, list[Run]] = {}
    warnings = []
    for run in sorted(runs, key=lambda run: run.seed):
        preference = {name: round(p, 6) for name, p in sorted(run.preference.items())}
        key = json.dumps([run.settings, preference], sort_keys=True, default=str)
        group = found.setdefault(key, [])
        if any(other.seed == run.seed for other in group):
            warnings.append(f"Seed {run.seed} of {run.solver} is there twice; {run.folder} is left out.")
        else:
            group.append(run)
    return found, warnings


def differing(members: Mapping[str, Sequence[Run]]) -> list[str]:
    """Flat keys whose value is not the same in all groups."""
    settings = [runs[0].settings for runs in members.values()]
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({json.dumps(s.get(key), default=str) for s in settings}) > 1]


def labels(members: Mapping[str, Sequence[Run]]) -> dict[str, tuple[str, str]]:
    """{group key: (label, family)}, families in order of name."""
    outside = [key for key in differing(members) if not key.startswith(METHOD)]
    named = {}
    for key, runs in members.items():
        first = runs[0]
        rivals = {k: v for k, v in members.items() if v[0].solver == first.solver}
        inside = [
            k for k in differing(rivals) if k.startswith(("solver.", "conditioning.", "dpo.")) and k in first.settings
        ]
        parts = [f"{_short_key(k)}={_short(first.settings.get(k))}" for k in [*inside, *outside]]
        named[key] = " ".join([first.solver, *parts])
    several = {family for family in named.values() if list(named.values()).count(family) > 1}
    both = {
        key: (f"{family} {_ratio(members[key][0])}" if family in several else family, family)
        for key, family in named.items()
    }
    return dict(sorted(both.items(), key=lambda item: (item[1][1], item[1][0])))


def _short_key(key: str) -> str:
    return key.removeprefix("solver.").removeprefix("objectives.").removeprefix("training.").removeprefix("dpo.")


def _short(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _ratio(run: Run) -> str:
    return ":".join(f"{share:.2g}" for share in run.preference.values())


def response_points(run: Run, names: Sequence[str], kind: str) -> list[list[float]]:
    """(R,N) rewards of the R test responses that the finished run recorded, those without one of them left out."""
    rows = [[row.get(f"{kind}/{name}") for name in names] for row in run.generations if row.get("split") == "test"]
    return [[float(value) for value in row if value is not None] for row in rows if None not in row]


def make_group(
    label: str,
    family: str,
    runs: Sequence[Run],
    names: Sequence[str],
    kind: str,
    keys: Sequence[str],
) -> Group:
    """The group of these runs; `keys` are those in which it may differ from another."""
    results = [run.result or {} for run in runs]
    yardstick = yardstick_of(runs[0], names, kind)
    rewards: dict[str, dict[str, dict[str, Interval]]] = {}
    for name in names:
        for which in ("gold", "proxy"):
            for when in ("before", "after"):
                given = [(result["objectives"][name][when] or {}).get(which) for result in results]
                found = interval([value for value in given if value is not None])
                if found is not None:
                    rewards.setdefault(name, {}).setdefault(which, {})[when] = found
    values: dict[str, dict[int, float]] = {
        name: {run.seed: result["objectives"][name]["after"][kind] for run, result in zip(runs, results, strict=True)}
        for name in names
    }
    if yardstick is not None:
        for run in runs:
            for measure, value in yardstick.measure([[values[name][run.seed] for name in names]]).items():
                values.setdefault(measure, {})[run.seed] = value
    singles = (
        [yardstick.measure_responses(points) for run in runs if (points := response_points(run, names, kind))]
        if yardstick is not None
        else []
    )
    bills = [result.get("bill") or {} for result in results]
    return Group(
        label=label,
        family=family,
        solver=runs[0].solver,
        preference=runs[0].preference,
        settings={key: runs[0].settings[key] for key in keys if key in runs[0].settings},
        runs=tuple(runs),
        rewards=rewards,
        measures={m: found for m in values if m not in names and (found := interval(list(values[m].values())))},
        values=values,
        responses={
            m: found for m in ("hypervolume", "nondominated") if (found := interval([one[m] for one in singles]))
        },
        bill={
            key: float(np.mean([bill[key] for bill in bills])) for key in bills[0] if all(key in bill for bill in bills)
        },
    )
