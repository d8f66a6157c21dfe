"""From finished runs to data, plots, and the tables of docs/study.md, around the hand-written reading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from pama_exp.comparison import Comparison, Group, Run, compare, load_runs
from pama_exp.comparison.pictures import attainment, gradients, operating_points, series
from pama_exp.comparison.statistics import Interval, interval
from pama_exp.comparison.write import as_dict, run_rows
from pama_exp.storage.csv_table import write_records

from .plan import ABLATED, ABLATIONS, OBJECTIVES, REWARDS, SOLVERS, SWEPT

Table = tuple[list[str], list[list[str]]]


def load(root: Path) -> dict[str, list[Run]]:
    """{block: runs}; blocks that were not run are missing."""
    found: dict[str, list[Run]] = {}
    for run in load_runs([root]):
        found.setdefault(run.folder.parent.name, []).append(run)
    composed = {}
    if {"preferences", "soup", "conditioned"} & set(found):
        even = [run for run in found.get("2-gold", ()) if run.solver in SWEPT]
        one_for_all = [*found.pop("soup", ()), *found.pop("conditioned", ())]
        composed["fronts"] = [*found.pop("preferences", ()), *even, *one_for_all]
    for count in ABLATIONS:
        if (name := f"ablation-{count}") in found:
            composed[name] = [*found[name], *(run for run in found.get(f"{count}-gold", ()) if run.solver in ABLATED)]
    for name in ("experts", "prepare"):
        found.pop(name, None)
    return found | composed


def publish(root: Path, results: Path, document: Path | None, command: str) -> None:
    """Write runs.csv, one comparison per block and the plots to `results`; put the tables into the document."""
    results.mkdir(parents=True, exist_ok=True)
    blocks = load(root)
    comparisons = {name: compare(runs) for name, runs in blocks.items() if any(run.result for run in runs)}
    rows = [{"block": name} | _portable(row, root) for name, c in comparisons.items() for row in run_rows(c)]
    write_records(results / "runs.csv", rows)
    write_records(results / "steps.csv", [row for name, c in comparisons.items() for row in step_rows(name, c)])
    for name, comparison in comparisons.items():
        content = _portable(as_dict(comparison), root)
        (results / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
        for kind, paint in {"points": operating_points, "attainment": attainment, "gradients": gradients}.items():
            figure = paint(comparison)
            if figure is not None:
                figure.savefig(results / f"{name}-{kind}.png", dpi=110)
    count = len({run.folder for runs in blocks.values() for run in runs})  # some stand in several comparisons
    tables = sections(comparisons) | {"command": f"Made by `{command}` from {count} runs."}
    (results / "tables.md").write_text("\n\n".join(f"## {name}\n\n{text}" for name, text in tables.items()) + "\n")
    if document is not None:
        document.write_text(filled(document.read_text(), tables))


def filled(text: str, sections: Mapping[str, str]) -> str:
    """The document with what stands between `<!-- study:NAME -->` and `<!-- /study:NAME -->` replaced."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        return (
            f"<!-- study:{name} -->\n{sections[name]}\n<!-- /study:{name} -->" if name in sections else match.group(0)
        )

    return re.sub(r"<!-- study:([\w-]+) -->.*?<!-- /study:\1 -->", put, text, flags=re.DOTALL)


def sections(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """{name: markdown} of every table that there are runs for."""
    found = {}
    for count in OBJECTIVES:
        both = {reward: comparisons[f"{count}-{reward}"] for reward in REWARDS if f"{count}-{reward}" in comparisons}
        if both:
            found[f"main-{count}"] = markdown(main_table(both))
    main = {name: c for name, c in comparisons.items() if re.fullmatch(r"\d-\w+", name)}
    if main:
        found["cost"] = markdown(cost_table(main))
        found["stationarity"] = markdown(stationarity_table(main))
    for name in (*(f"ablation-{count}" for count in ABLATIONS), "group"):
        if name in comparisons:
            found[name] = markdown(block_table(comparisons[name]))
    if "fronts" in comparisons:
        found["fronts"] = markdown(front_table(comparisons["fronts"]))
    found["warnings"] = "\n".join(f"- {name}: {w}" for name, c in comparisons.items() for w in c.warnings) or "None."
    return found


def main_table(both: Mapping[str, Comparison]) -> Table:
    """A row per solver: gold rewards after training on gold, and what is left of it after training on reward models."""
    first = next(iter(both.values()))
    header = ["solver", *first.objectives]
    for reward in both:
        header += [f"share ({reward})", f"least gain ({reward})", f"sd of share ({reward})"]
    rows = []
    for label in _ranked(first):
        row = [label]
        for index, comparison in enumerate(both.values()):
            group = _find(comparison, label)
            if group is None:
                row += ["–"] * 3
                continue
            if index == 0:
                row += [_spread(group.rewards[name]["gold"]["after"]) for name in comparison.objectives]
            row += [
                _percent(group.measures["share"]) + _mark(comparison, label),
                _spread(least_gain(group)),
                _deviation(group),
            ]
        rows.append(row)
    return header, rows


def block_table(comparison: Comparison) -> Table:
    """A row per group: gold rewards, share, least gain, and the sign of a difference from the baseline."""
    header = ["group", "seeds", *comparison.objectives, "share", "least gain", "sd of share"]
    return header, [
        [
            label,
            str(len(group.runs)),
            *(_spread(group.rewards[name]["gold"]["after"]) for name in comparison.objectives),
            _percent(group.measures["share"]) + _mark(comparison, label),
            _spread(least_gain(group)),
            _deviation(group),
        ]
        for label in _ranked(comparison)
        if (group := _find(comparison, label)) is not None
    ]


def front_table(comparison: Comparison) -> Table:
    """A row per solver's front over preferences, soup, or conditioned policy."""
    header = [
        "front",
        "points",
        "nondominated",
        "share",
        "IGD+",
        "ε",
        "spacing",
        "mean regret",
        "prompts",
        "backward passes",
    ]
    fronts = sorted((f for f in comparison.fronts if len(f.points) > 1), key=lambda f: -f.measures["share"].mean)
    return header, [
        [
            front.family,
            str(len(front.points)),
            str(sum(front.nondominated)),
            _percent(front.measures["share"]) + _mark(comparison, front.family, "front share"),
            *(_spread(front.measures[name]) for name in ("igd_plus", "epsilon", "spacing", "regret")),
            f"{front.bill['prompts']:.0f}",
            f"{front.bill['backwards']:.0f}",
        ]
        for front in fronts
    ]


def cost_table(comparisons: Mapping[str, Comparison]) -> Table:
    """Median seconds of a step and backward passes per prompt, over the number of objectives, trained on gold."""
    counts = [count for count in OBJECTIVES if f"{count}-gold" in comparisons]
    header = [
        "solver",
        *(f"s/step, N = {n}" for n in counts),
        "ratio",
        *(f"backwards per prompt, N = {n}" for n in counts),
    ]
    rows = []
    for solver in SOLVERS:
        groups = [_find(comparisons[f"{count}-gold"], solver) for count in counts]
        if not groups or any(group is None for group in groups):
            continue
        seconds = [
            median(row["time/step"] for run in g.runs for row in run.metrics if "time/step" in row) for g in groups if g
        ]
        passes = [g.bill["backwards"] / g.bill["prompts"] for g in groups if g]
        rows.append(
            [solver, *(f"{s:.3f}" for s in seconds), f"{seconds[-1] / seconds[0]:.2f}", *(f"{p:.1f}" for p in passes)]
        )
    return header, rows


def stationarity_table(comparisons: Mapping[str, Comparison]) -> Table:
    """Residual ‖Σ w g‖ and mean gradient cosine, at the first and over the last third of the diagnosed steps."""
    names = [name for name in comparisons if name.endswith("gold")]
    header = ["solver"]
    for name in names:
        header += [f"residual, N = {name[0]}", f"cosine, N = {name[0]}"]
    rows = []
    for solver in SOLVERS:
        row = [solver]
        for name in names:
            group = _find(comparisons[name], solver)
            for read in (residual, cosine):
                steps, values = series(group.runs, read) if group is not None else ((), ())
                if len(steps) == 0:
                    row.append("–")
                    continue
                tail = values[:, -max(1, len(steps) // 3) :]
                row.append(f"{values[:, 0].mean():.3f} → {tail.mean():.3f}")
        if set(row[1:]) != {"–"}:
            rows.append(row)
    return header, rows


def step_rows(block: str, comparison: Comparison) -> list[dict[str, Any]]:
    """Means over seeds at every diagnosed step."""
    readers: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "stationarity_residual": residual,
        "mean_cosine": cosine,
        "kl": lambda row: row.get("kl/response"),
        "entropy": lambda row: row.get("policy/entropy"),
    }
    readers |= {f"weight/{n}": _reader(f"solver/weight/{n}") for n in comparison.objectives}
    readers |= {f"binding_share/{n}": _reader(f"solver/binding_share/{n}") for n in comparison.objectives}
    readers |= {f"reward/{n}": _reader(f"reward/{n}/mean") for n in comparison.objectives}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for group in comparison.groups:
        for name, read in readers.items():
            steps, values = series(group.runs, read)
            for index, step in enumerate(steps):
                row = rows.setdefault(
                    (group.label, int(step)), {"block": block, "group": group.label, "step": int(step)}
                )
                row[name] = round(float(values[:, index].mean()), 6)
    return [rows[key] for key in sorted(rows)]


def residual(row: Mapping[str, Any]) -> float | None:
    """The stationarity residual of a metrics row."""
    return row.get("solver/stationarity_residual")


def cosine(row: Mapping[str, Any]) -> float | None:
    """The mean over pairs of objectives."""
    found = [value for key, value in row.items() if key.startswith("solver/cosine/") and value is not None]
    return fmean(found) if found else None


def least_gain(group: Group) -> Interval | None:
    """Gain of the objective that gained least, in the SFT policy's deviations: what a balanced method makes large."""
    gains = []
    for run in group.runs:
        result: Any = run.result
        moments = {name: result["calibration"][name]["gold"] for name in run.objectives}
        gains.append(
            min(
                (result["objectives"][name]["after"]["gold"] - m["mean"]) / (m["deviation"] or 1.0)
                for name, m in moments.items()
            )
        )
    return interval(gains)


def markdown(table: Table) -> str:
    """GitHub's table."""
    header, rows = table
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def _ranked(comparison: Comparison) -> list[str]:
    return [g.label for g in sorted(comparison.groups, key=lambda g: -g.measures["share"].mean)]


def _find(comparison: Comparison, label: str) -> Group | None:
    return next((group for group in comparison.groups if group.label == label), None)


def _mark(comparison: Comparison, label: str, measure: str = "share") -> str:
    """▲ or ▼ where the difference from the baseline is significant at 5 % after correction."""
    for test in comparison.tests:
        if (test.group, test.measure) == (label, measure) and test.p_holm < 0.05:
            return " ▲" if test.difference.mean > 0 else " ▼"
    return ""


def _deviation(group: Group) -> str:
    shares = list(group.values["share"].values())
    return f"{100 * stdev(shares):.1f}" if len(shares) > 1 else "–"


def _spread(found: Interval | None) -> str:
    if found is None:
        return "–"
    ends = f" [{found.low:.2f}, {found.high:.2f}]" if found.low is not None and found.high is not None else ""
    return f"{found.mean:.2f}{ends}"


def _percent(found: Interval) -> str:
    ends = (
        f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.low is not None and found.high is not None else ""
    )
    return f"{100 * found.mean:.1f} %{ends}"


def _reader(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda row: row.get(key)


def _portable(content: Any, root: Path) -> Any:
    """Without the machine's own path to the runs."""
    return json.loads(json.dumps(content, default=str).replace(f"{root}/", "").replace(f"{root.absolute()}/", ""))
