"""The families' rows: read from finished runs, kept in two csv files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pama_exp.comparison.load import Run, read_run
from pama_exp.comparison.reference import reference_of
from pama_exp.comparison.solver_fronts import operating_points

from .plan import FAMILIES, OBJECTIVES, PREFERENCES, runs_of

MEASURES = ("share", "igd_plus", "regret")
BILL = ("prompts", "tokens", "pairs", "reward_calls", "forwards", "backwards", "seconds")
COLUMNS = ("family", "seed", *MEASURES, *BILL)
POINTS = ("family", "seed", *(f"asked/{name}" for name in OBJECTIVES), *(f"gold/{name}" for name in OBJECTIVES))


@dataclass(frozen=True)
class Row:
    """A family's front of one seed: measures and bill by column, and a gold point for each preference."""

    family: str
    seed: int
    values: Mapping[str, float]
    points: Mapping[float, tuple[float, ...]]  # by the share of the first objective


def read_rows(root: Path, seeds: Iterable[int]) -> list[Row]:
    """A row for every family and seed whose runs are all finished."""
    found = [_row(root, family, seed) for family in FAMILIES for seed in seeds]
    return [row for row in found if row is not None]


def _row(root: Path, family: str, seed: int) -> Row | None:
    folders = [root / f"{name}-s{seed}" for name in runs_of(family)]
    read = [read_run(folder) if folder.is_dir() else None for folder in folders]
    runs = [run for run in read if run is not None and run.result is not None]
    if len(runs) < len(folders):
        return None
    points: dict[float, tuple[float, ...]] = {}
    for run in runs:
        for preference, point in operating_points(run, OBJECTIVES, "gold"):
            if round(preference[0], 6) in PREFERENCES:
                points[round(preference[0], 6)] = point
    if sorted(points) != sorted(PREFERENCES):
        return None
    reference = reference_of(runs[0], OBJECTIVES, "gold")
    assert reference is not None
    measured = reference.measure(list(points.values()))
    return Row(family, seed, {name: measured[name] for name in MEASURES} | _bill(runs), points)


def _bill(runs: Iterable[Run]) -> dict[str, float]:
    bills = [(run.result or {}).get("bill") or {} for run in runs]
    return {key: float(sum(bill.get(key, 0) for bill in bills)) for key in BILL}


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """One row per family and seed, the new one where both have it."""
    by_key = {(row.family, row.seed): row for row in [*old, *new]}
    order = list(FAMILIES)
    return [by_key[key] for key in sorted(by_key, key=lambda key: (order.index(key[0]), key[1]))]


def save(folder: Path, rows: Iterable[Row]) -> None:
    """runs.csv and points.csv; six digits are more than a seed's noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    _write(
        folder / "runs.csv", COLUMNS, [[row.family, row.seed, *(row.values[c] for c in COLUMNS[2:])] for row in rows]
    )
    lines = [
        [row.family, row.seed, share, round(1 - share, 6), *point]
        for row in rows
        for share, point in sorted(row.points.items())
    ]
    _write(folder / "points.csv", POINTS, lines)


def load(folder: Path) -> list[Row]:
    """What `save` wrote; none where there is nothing."""
    if not (folder / "runs.csv").exists():
        return []
    points: dict[tuple[str, int], dict[float, tuple[float, ...]]] = {}
    with (folder / "points.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            key = (record["family"], int(record["seed"]))
            gold = tuple(float(record[f"gold/{name}"]) for name in OBJECTIVES)
            points.setdefault(key, {})[float(record[f"asked/{OBJECTIVES[0]}"])] = gold
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Row(r["family"], int(r["seed"]), {c: float(r[c]) for c in COLUMNS[2:]}, points[r["family"], int(r["seed"])])
        for r in rows
        if r["family"] in FAMILIES
    ]


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
