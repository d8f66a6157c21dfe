"""The league's rows: read from finished runs, kept in one csv, and merged with those that were there before."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .plan import OBJECTIVES, Cell

KEY = ("n", "reward", "protocol", "entry", "seed", "world")
MEASURES = (
    "share", "igd_plus", "epsilon", "regret", "least_gain", "mean_gain", "kl", "step_seconds", "backwards_per_prompt"
)  # fmt: skip
_NAMES = OBJECTIVES[max(OBJECTIVES)]
COLUMNS = (
    *KEY,
    *MEASURES,
    *(f"{kind}/{name}" for kind in ("before", "after", "learned_after", "kl_share") for name in _NAMES),
    "steps",
)


@dataclass(frozen=True)
class Row:
    """A finished run: its cell, and what was measured by column."""

    cell: Cell
    values: Mapping[str, float | None]

    def __getitem__(self, column: str) -> float:
        """The value.

        Raises:
            KeyError: where it was not measured.
        """
        value = self.values.get(column)
        if value is None:
            raise KeyError(column)
        return value


def read_run(folder: Path, cell: Cell) -> Row | None:
    """The row of a run's folder; None where it is not finished."""
    if not (folder / "result.json").exists():
        return None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.strip()]
    steps = [row for row in metrics if "kl/response" in row]
    objectives, start = result["objectives"], result["calibration"]
    gains = [
        (objectives[name]["after"]["gold"] - start[name]["gold"]["mean"]) / (start[name]["gold"]["deviation"] or 1.0)
        for name in objectives
    ]
    bill = result["bill"]
    values: dict[str, float | None] = {
        "share": result["true_hypervolume_share"]["after"],
        **{name: result["true_front"]["after"][name] for name in ("igd_plus", "epsilon", "regret")},
        "least_gain": min(gains),
        "mean_gain": fmean(gains),
        "kl": fmean(row["kl/response"] for row in steps[-5:]),
        "step_seconds": median(row["time/step"] for row in steps),
        "backwards_per_prompt": bill["backwards"] / bill["prompts"],
        "steps": float(len(steps)),
    }
    for name in objectives:
        shares = [row[f"advantage/kl_share/{name}"] for row in steps if f"advantage/kl_share/{name}" in row]
        values[f"before/{name}"] = objectives[name]["before"]["gold"]
        values[f"after/{name}"] = objectives[name]["after"]["gold"]
        values[f"learned_after/{name}"] = objectives[name]["after"]["proxy"] if cell.reward == "learned" else None
        # Of the last third: what the channels are made of once rewards have been reached.
        values[f"kl_share/{name}"] = fmean(shares[-len(shares) // 3 :]) if shares else None
    return Row(cell, values)


def read_runs(root: Path, cells: Iterable[Cell]) -> list[Row]:
    """The rows of those that are finished."""
    return [row for cell in cells if (row := read_run(root / cell.name, cell)) is not None]


def load(path: Path) -> list[Row]:
    """The rows of the csv; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_row(record) for record in csv.DictReader(file)]


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """One row per cell, the new one where both have it, in the cells' order."""
    by_cell = {row.cell: row for row in [*old, *new]}
    return [
        by_cell[cell] for cell in sorted(by_cell, key=lambda c: (c.world, c.protocol, c.n, c.reward, c.entry, c.seed))
    ]


def save(path: Path, rows: Iterable[Row]) -> None:
    """Write the csv; six digits are more than a seed's noise."""
    used = [c for c in COLUMNS if c in KEY or any(row.values.get(c) is not None for row in rows)]
    lines = [",".join(used)]
    for row in rows:
        cell = [str(getattr(row.cell, key)) for key in KEY]
        lines.append(",".join([*cell, *(_shown(row.values.get(c)) for c in used if c not in KEY)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".csv.part")
    draft.write_text("\n".join(lines) + "\n")
    draft.replace(path)


def version(rows: Iterable[Row]) -> str:
    """What a citation names: a hash of all that ranks, the same for the same table."""
    kept = [f"{row.cell} {_shown(row.values.get('share'))} {_shown(row.values.get('least_gain'))}" for row in rows]
    return hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()[:12]


def _row(record: Mapping[str, str]) -> Row:
    cell = Cell(
        int(record["n"]), record["reward"], record["protocol"], record["entry"], int(record["seed"]), record["world"]
    )
    return Row(cell, {key: float(value) if value else None for key, value in record.items() if key not in KEY})


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
