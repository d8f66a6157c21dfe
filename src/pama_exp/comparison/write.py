"""Writing a comparison as JSON, as CSV with one row per run, and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pama_exp.comparison.groups import Group
from pama_exp.comparison.load import Run
from pama_exp.comparison.seedwise import Comparison
from pama_exp.comparison.statistics import Interval
from pama_exp.config.naming import markdown_text, rewards_of, shown
from pama_exp.storage.csv_table import write_records

_BILL = (
    ("prompts", "prompts", 1),
    ("tokens", "tokens", 1),
    ("reward_calls", "reward calls", 1),
    ("forwards", "forwards", 1),
    ("backwards", "backwards", 1),
    ("seconds", "seconds", 1),
    ("peak_memory_bytes", "GiB", 2**30),
)
_PERCENT = ("share",)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain nested values. A run is given by its folder, seed, status and detail."""

    def plain(run: Run) -> dict[str, Any]:
        return {"folder": shown(run.folder), "seed": run.seed, "status": run.status, "detail": run.detail}

    without_runs = replace(
        comparison, groups=tuple(replace(group, runs=()) for group in comparison.groups), unfinished=()
    )
    values = asdict(without_runs)
    for group, content in zip(comparison.groups, values["groups"], strict=True):
        content["runs"] = [plain(run) for run in group.runs]
    values["unfinished"] = [plain(run) for run in comparison.unfinished]
    return {"controlled": comparison.is_controlled, **values}


def write(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, comparison.csv and comparison.md into the folder."""
    text = json.dumps(as_dict(comparison), indent=1, allow_nan=False, default=str)
    (folder / "comparison.json").write_text(text + "\n")
    write_records(folder / "comparison.csv", run_rows(comparison))
    (folder / "comparison.md").write_text(markdown(comparison), encoding="utf-8", errors="replace")


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat row per finished run: group, seed, folder, preference, rewards, measures and bill."""
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            result = run.result or {}
            row: dict[str, Any] = {"group": group.label, "family": group.family, "solver": group.solver}
            row |= {"seed": run.seed, "folder": shown(run.folder)}
            row |= {f"preference/{name}": share for name, share in group.preference.items()}
            for name in comparison.objectives:
                for when in ("before", "after"):
                    for kind, value in (result["objectives"][name][when] or {}).items():
                        row[f"{kind}/{name}/{when}"] = value
            row |= {m: values[run.seed] for m, values in group.values.items() if m not in comparison.objectives}
            row |= {f"bill/{key}": value for key, value in (result.get("bill") or {}).items()}
            rows.append(row)
    return rows


def tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table: groups, bills, single responses, fronts, tests and differences."""
    kind, names = comparison.kind, comparison.objectives
    measures = [m for m in ("share", "regret", "hypervolume") if any(m in g.measures for g in comparison.groups)]
    groups = [
        [g.label, str(len(g.runs)), *(_way(g, name, kind) for name in names), *(_cell(g.measures, m) for m in measures)]
        for g in comparison.groups
    ]
    content = [(f"{rewards_of(kind).capitalize()} on unseen prompts, before → after [95 %]",
              ["group", "seeds", *names, *measures], groups)]  # fmt: skip
    bills = [[g.label, *(_number(g.bill.get(key), unit) for key, _, unit in _BILL)] for g in comparison.groups]
    content.append(("Bill of a run, mean", ["group", *(title for _, title, _ in _BILL)], bills))
    if any(group.responses for group in comparison.groups):
        rows = [[g.label, *(_cell(g.responses, m) for m in ("hypervolume", "nondominated"))] for g in comparison.groups]
        content.append(("Single test responses, not policies", ["group", "hypervolume", "nondominated"], rows))
    wide = [front for front in comparison.fronts if len(front.points) > 1]
    if wide:
        measured = [m for m in ("share", "hypervolume", "igd_plus", "epsilon", "spacing", "regret")
                    if any(m in front.measures for front in wide)]  # fmt: skip
        rows = [
            [
                f.family,
                f"{sum(f.nondominated)} of {len(f.points)}",
                str(len(f.seeds)),
                *(_cell(f.measures, m) for m in measured),
                _number(f.bill.get("prompts"), 1),
                _number(f.bill.get("backwards"), 1),
            ]
            for f in wide
        ]
        header = ["front", "nondominated", "seeds", *measured, "prompts", "backwards"]
        content.append(("Fronts, every run that made them billed", header, rows))
    if comparison.tests:
        rows = [
            [
                t.group,
                t.baseline,
                t.measure,
                _spread(t.difference, 3),
                f"{t.p:.2g}",
                f"{t.p_holm:.2g}",
                f"{t.p_sign:.2g}",
            ]
            for t in comparison.tests
        ]
        header = ["group", "baseline", "measure", "difference", "p (paired t)", "p (Holm)", "p (sign flips)"]
        content.append(("Paired over seeds", header, rows))
    if comparison.differences:
        rows = [
            [key, *(json.dumps(values[g.label], default=str) for g in comparison.groups)]
            for key, values in comparison.differences.items()
        ]
        content.append(("Not controlled: also different", ["key", *(g.label for g in comparison.groups)], rows))
    return content


def markdown(comparison: Comparison) -> str:
    """The warnings and tables as Markdown."""
    parts = [f"# {markdown_text(' + '.join(comparison.objectives))}"]
    parts += [f"> {markdown_text(warning)}" for warning in comparison.warnings]
    for title, header, rows in tables(comparison):
        parts.append(f"## {title}")
        parts.append("\n".join(map(_line, [header, ["---"] * len(header), *rows])))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _way(group: Group, name: str, kind: str) -> str:
    means = group.rewards.get(name, {}).get(kind, {})
    before = f"{means['before'].mean:.3f} → " if "before" in means else ""
    return before + _spread(means["after"], 3) if "after" in means else "–"


def _cell(measures: Mapping[str, Interval], name: str) -> str:
    if name not in measures:
        return "–"
    return _spread(measures[name], 1, percent=True) if name in _PERCENT else _spread(measures[name], 3)


def _spread(value: Interval, digits: int, percent: bool = False) -> str:
    scale, sign = (100, " %") if percent else (1, "")
    if value.low is None or value.high is None:
        return f"{value.mean * scale:.{digits}f}{sign}"
    return f"{value.mean * scale:.{digits}f}{sign} [{value.low * scale:.{digits}f}, {value.high * scale:.{digits}f}]"


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return "–"
    scaled = value / unit
    return f"{scaled:.0f}" if scaled >= 10 or scaled == int(scaled) else f"{scaled:.2g}"
