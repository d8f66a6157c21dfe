"""The report's tables as CSV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pama_exp.comparison import Comparison
from pama_exp.comparison.write import write
from pama_exp.storage.csv_table import write_rows

_RUN_COLUMNS = ("name", "group", "solver", "seed", "status", "step", "steps", "share", "seconds", "detail", "command")


def write_tables(section: dict[str, Any], comparison: Comparison | None, folder: Path) -> None:
    """Write runs.csv, curves.csv, generations.csv, a CSV file per table, and comparison.csv, .json and .md."""
    names, kind = section["objectives"], section["kind"]
    rows = []
    for run in section["runs"]:
        after = run["after"][kind] if run["after"] else [None] * len(names)
        rows.append([*(run[column] for column in _RUN_COLUMNS), *after])
    write_rows(folder / "runs.csv", [*_RUN_COLUMNS, *(f"{kind}/{name}" for name in names)], rows)
    write_rows(folder / "curves.csv", ["name", "group", "seed", "metric", "step", "value"], _curve_rows(section))
    write_rows(folder / "generations.csv", ["prompt", "group", "seed", "step", "response", "scores"], _answers(section))
    tables = [*section["tables"], section["differences"]]
    for table in tables:
        slug = re.sub(r"[^a-z0-9]+", "-", table["title"].lower()).strip("-")
        write_rows(folder / f"table-{slug}.csv", table["header"], table["rows"])
    if comparison is not None:
        write(comparison, folder)


def _curve_rows(section: dict[str, Any]) -> list[list[Any]]:
    return [
        [run["name"], run["group"], run["seed"], key, step, value]
        for run in section["runs"]
        for key, values in run["series"].items()
        for step, value in zip(grid_of(section, key), values, strict=True)
        if value is not None
    ]


def grid_of(section: dict[str, Any], key: str) -> list[int]:
    """The steps of the values of the curve `key`."""
    steps: list[int] = section["eval_steps" if key.startswith("eval/") or key == "kl/eval" else "steps"]
    return steps


def _answers(section: dict[str, Any]) -> list[list[Any]]:
    rows = []
    for run, answers, step in zip(section["runs"], section["generations"], section["generation_steps"], strict=True):
        for index, (response, scores) in answers.items():
            scores_text = "; ".join(f"{name} {value}" for name, value in scores.items())
            rows.append([section["prompts"][index], run["group"], run["seed"], step, response, scores_text])
    return sorted(rows, key=lambda row: (section["prompts"].index(row[0]), row[1], row[2]))
