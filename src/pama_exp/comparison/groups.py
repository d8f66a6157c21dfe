"""Groups: finished runs of one configuration that differ only in their seed; their labels and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pama_exp.comparison.load import Run
from pama_exp.comparison.reference import reference_of
from pama_exp.comparison.statistics import Interval, interval

METHOD = ("solver.", "conditioning.", "dpo.", "stage")  # keys that may differ between groups of a controlled comparison


@dataclass(frozen=True)
class Group:
    """Finished runs of one configuration that differ only in their seed.

    Attributes:
        label: the solver, the settings in which the group differs from others, and the preference if that differs.
        family: the label without the preference.
        solver: the solver's name.
        preference: {objective: share}; the shares sum to 1.
        settings: {key: value} of the settings in which the groups of the comparison differ.
        runs: one per seed, in order of seeds.
        rewards: {objective: {"gold" or "proxy": {"before" or "after": interval over seeds}}}.
        measures: {measure: interval over seeds} of the operating point: share, igd_plus, epsilon and regret against the
            true front, or hypervolume if no true front is known.
        values: {objective or measure: {seed: value}}, which the tests are computed from.
        responses: hypervolume, and number of nondominated points, of the recorded single test responses. Single
            responses spread much further than a policy's means, so do not compare these with `measures`.
        bill: {cost: mean over the runs}.
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
        """The seeds of the runs, in ascending order."""
        return tuple(run.seed for run in self.runs)


def has_gold(run: Run) -> bool:
    """Whether a finished run has the gold reward of every objective."""
    assert run.result is not None
    return all(means["after"]["gold"] is not None for means in run.result["objectives"].values())


def group_key(run: Run) -> str:
    """The run's settings and preference as text, equal for all runs of a group."""
    preference = {name: round(share, 6) for name, share in sorted(run.preference.items())}
    return json.dumps([run.settings, preference], sort_keys=True, default=str)


def members(runs: Sequence[Run]) -> tuple[dict[str, list[Run]], list[str]]:
    """{configuration and preference: its runs, one per seed}, and a warning for each run whose seed is there twice."""
    groups: dict[str, list[Run]] = {}
    warnings = []
    for run in sorted(runs, key=lambda run: run.seed):
        group = groups.setdefault(group_key(run), [])
        if any(other.seed == run.seed for other in group):
            warnings.append(f"Seed {run.seed} of {run.solver} is there twice; {run.folder} is left out.")
        else:
            group.append(run)
    return groups, warnings


def differing(members: Mapping[str, Sequence[Run]]) -> list[str]:
    """The dotted keys of settings whose value is not the same in all groups."""
    settings = [runs[0].settings for runs in members.values()]
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({json.dumps(s.get(key), default=str) for s in settings}) > 1]


def labels(members: Mapping[str, Sequence[Run]]) -> dict[str, tuple[str, str]]:
    """{group key: (label, family)}, in order of family and label."""
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
    """(R,N) rewards of the recorded test responses. Responses that lack the reward of an objective are left out."""
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
    """The group of these runs.

    Args:
        label: of the group.
        family: of the group.
        runs: finished, one per seed, in order of seeds.
        names: of the objectives, in the comparison's order.
        kind: "gold" or "proxy", the rewards that measures are of.
        keys: the settings in which groups differ.
    """
    results = [run.result or {} for run in runs]
    reference = reference_of(runs[0], names, kind)
    rewards: dict[str, dict[str, dict[str, Interval]]] = {}
    for name in names:
        for which in ("gold", "proxy"):
            for when in ("before", "after"):
                means = [(result["objectives"][name][when] or {}).get(which) for result in results]
                over_seeds = interval([value for value in means if value is not None])
                if over_seeds is not None:
                    rewards.setdefault(name, {}).setdefault(which, {})[when] = over_seeds
    values: dict[str, dict[int, float]] = {
        name: {run.seed: result["objectives"][name]["after"][kind] for run, result in zip(runs, results, strict=True)}
        for name in names
    }
    if reference is not None:
        for run in runs:
            for measure, value in reference.measure([[values[name][run.seed] for name in names]]).items():
                values.setdefault(measure, {})[run.seed] = value
    singles = [
        reference.measure_responses(points)
        for run in runs
        if reference is not None and (points := response_points(run, names, kind))
    ]
    bills = [result.get("bill") or {} for result in results]
    return Group(
        label=label,
        family=family,
        solver=runs[0].solver,
        preference=runs[0].preference,
        settings={key: runs[0].settings[key] for key in keys if key in runs[0].settings},
        runs=tuple(runs),
        rewards=rewards,
        measures={m: ci for m in values if m not in names and (ci := interval(list(values[m].values())))},
        values=values,
        responses={m: ci for m in ("hypervolume", "nondominated") if (ci := interval([row[m] for row in singles]))},
        bill={key: float(np.mean([b[key] for b in bills])) for key in bills[0] if all(key in b for b in bills)},
    )
