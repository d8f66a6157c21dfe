"""The comparison of groups of runs, with tests over the seeds that two groups share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pama_exp.comparison.groups import (
    METHOD,
    Group,
    differing,
    has_gold,
    labels,
    make_group,
    members,
)
from pama_exp.comparison.load import Run, is_comparable
from pama_exp.comparison.reference import reference_of
from pama_exp.comparison.solver_fronts import Front, Preference, front_of
from pama_exp.comparison.statistics import LEAST, Interval, holm, paired_test
from pama_exp.errors import UserError, suggest
from pama_exp.storage import html_view

_TESTED = ("share", "hypervolume")  # the measures of an operating point or a front that are tested


@dataclass(frozen=True)
class Test:
    """A paired test of a group against the baseline's group of the same preference, over the seeds that both have.

    Attributes:
        group: label of the group, or family of the front.
        baseline: label of the baseline's group, or family of its front.
        measure: an objective, a measure of the operating point, or `front share` or `front hypervolume` of two fronts.
        difference: group minus baseline, with its 95 % interval.
        p: of the two-sided paired t-test.
        p_holm: `p` corrected for all tests of the comparison (Holm 1979).
        p_sign: of the two-sided sign-flip test, not corrected.
    """

    __test__ = False  # no test class of pytest

    group: str
    baseline: str
    measure: str
    difference: Interval
    p: float
    p_holm: float
    p_sign: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of runs of the same objectives.

    Attributes:
        objectives: names, in order.
        kind: the rewards that measures and tests are of: "gold" if every run has them, else "proxy".
        yardstick: the reference that points are measured against: `true front`, `calibration`, or None.
        groups: runs of one configuration, one per seed.
        fronts: the operating points of each family over its preferences.
        differences: {configuration key: {group: value}} of settings other than solver, preference and seed.
        tests: each group and front against the baseline's.
        unfinished: runs without a result.
        warnings: what a reader must know before quoting a number.
        baseline: the family that the others are tested against.
    """

    objectives: tuple[str, ...]
    kind: str
    yardstick: str | None
    groups: tuple[Group, ...]
    fronts: tuple[Front, ...]
    differences: Mapping[str, Mapping[str, Any]]
    tests: tuple[Test, ...]
    unfinished: tuple[Run, ...]
    warnings: tuple[str, ...]
    baseline: str | None = field(default=None)

    def _repr_html_(self) -> str:
        """What a notebook shows: every table that `stage=compare` prints, and its warnings."""
        from pama_exp.comparison.write import tables

        shown = [html_view.table(title, header, rows) for title, header, rows in tables(self)]
        return "".join(shown) + "".join(f"<div>⚠ {escape(warning)}</div>" for warning in self.warnings)

    @property
    def is_controlled(self) -> bool:
        """Whether the groups differ only in the solver and its preference."""
        return not self.differences


def compare(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """Compare runs of the same objectives.

    Args:
        runs: of any status. Runs of stages that train no policy are ignored. Runs without a result are listed, and left
            out of every number.
        baseline: the solver, family or group that the others are tested against. By default `linear` if there is one,
            else the first family.

    Raises:
        UserError: for runs of different objectives (`split_by_objectives` separates them), if no run is finished, or
            for an unknown baseline.
    """
    runs = [run for run in runs if is_comparable(run)]
    if len({tuple(sorted(run.objectives)) for run in runs}) > 1:
        sets = "; ".join(sorted({"+".join(run.objectives) for run in runs}))
        raise UserError(f"The runs are of different objectives: {sets}.", "Compare those of the same objectives.")
    finished = [run for run in runs if run.result is not None]
    unfinished = tuple(run for run in runs if run.result is None)
    if not finished:
        states = ", ".join(sorted({run.status for run in unfinished})) or "none aligns a policy"
        raise UserError(f"None of the {len(runs)} runs has a result to compare ({states}).", "Wait, or name others.")
    names = finished[0].objectives
    kind = "gold" if all(has_gold(run) for run in finished) else "proxy"
    by_key, warnings = members(finished)
    groups = tuple(
        make_group(label, family, by_key[key], names, kind, differing(by_key))
        for key, (label, family) in labels(by_key).items()
    )
    fronts = tuple(
        front_of(family, [run for group in groups if group.family == family for run in group.runs], names, kind)
        for family in dict.fromkeys(group.family for group in groups)
    )
    differences = _differences(groups)
    baseline_family = _baseline(groups, baseline)
    reference = reference_of(finished[0], names, kind)
    return Comparison(
        objectives=names,
        kind=kind,
        yardstick=reference.name if reference is not None else None,
        groups=groups,
        fronts=fronts,
        differences=differences,
        tests=_tests(groups, fronts, baseline_family, names),
        unfinished=unfinished,
        warnings=(*warnings, *_warnings(groups, fronts, differences, unfinished, kind)),
        baseline=baseline_family,
    )


def _differences(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    keys = dict.fromkeys(key for group in groups for key in group.settings if not key.startswith(METHOD))
    return {key: {group.label: group.settings.get(key) for group in groups} for key in keys}


def _baseline(groups: Sequence[Group], wanted: str | None) -> str:
    """The family that the others are tested against."""
    names = {group.family: group.family for group in reversed(groups)}
    names |= {group.solver: group.family for group in reversed(groups) if group.solver not in names}
    if wanted is None:
        return names.get("linear", groups[0].family)
    names |= {group.label: group.family for group in groups}
    if wanted not in names:
        raise UserError(f"compare.baseline={wanted} is none of the groups.", suggest(wanted, sorted(names)))
    return names[wanted]


def _tests(groups: Sequence[Group], fronts: Sequence[Front], baseline: str, names: Sequence[str]) -> tuple[Test, ...]:
    """Each group against the baseline's group of the same preference, and each front against the baseline's."""
    pairs: list[tuple[str, str, str, Mapping[int, float], Mapping[int, float]]] = []
    against = {_rounded(group): group for group in groups if group.family == baseline}
    for group in groups:
        other = against.get(_rounded(group))
        if group.family == baseline or other is None:
            continue
        shared = [measure for measure in (*names, *_TESTED) if measure in group.values and measure in other.values]
        pairs += [(group.label, other.label, m, group.values[m], other.values[m]) for m in shared]
    base = next(front for front in fronts if front.family == baseline)
    for front in fronts:
        for measure in _TESTED:
            both = measure in front.per_seed and measure in base.per_seed
            if both and front.family != baseline and max(len(front.points), len(base.points)) > 1:
                pairs.append(
                    (front.family, baseline, f"front {measure}", front.per_seed[measure], base.per_seed[measure])
                )
    tested = [(pair, test) for pair in pairs if (test := paired_test(pair[3], pair[4])) is not None]
    corrected = holm([test.p for _, test in tested])
    return tuple(
        Test(group, other, measure, test.difference, test.p, p_holm, test.p_sign)
        for ((group, other, measure, _, _), test), p_holm in zip(tested, corrected, strict=True)
    )


def _rounded(group: Group) -> Preference:
    return tuple(round(share, 6) for _, share in sorted(group.preference.items()))


def _warnings(
    groups: Sequence[Group],
    fronts: Sequence[Front],
    differences: Mapping[str, Mapping[str, Any]],
    unfinished: Sequence[Run],
    kind: str,
) -> list[str]:
    warnings = []
    if differences:
        warnings.append(f"Not controlled: the groups differ in {', '.join(differences)}, besides the solver.")
    counts = {len(group.runs) for group in groups}
    if len(counts) > 1:
        listed = ", ".join(f"{group.label}: {len(group.runs)}" for group in groups)
        warnings.append(f"Unequal numbers of seeds ({listed}).")
    elif len(groups) > 1 and len({group.seeds for group in groups}) > 1:
        warnings.append("The groups have different seeds; tests are over those they share.")
    if counts == {1}:
        warnings.append("One seed only: no interval and no test can be had.")
    elif min(counts) < LEAST:
        who = "The groups have" if max(counts) < LEAST else "Some groups have"
        warnings.append(f"{who} fewer than {LEAST} seeds, and so means without intervals.")
    warnings += [
        f"No seed of {front.family} has all of its {len(front.points)} preferences: its front has no measures."
        for front in fronts
        if not front.seeds
    ]
    if unfinished:
        states = sorted(run.status for run in unfinished)
        listed = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        warnings.append(f"Left out, without a result: {listed}.")
    if kind == "proxy" and any(has_gold(run) for group in groups for run in group.runs):
        warnings.append("Rewards are those that training saw: some runs have no gold rewards.")
    return warnings
