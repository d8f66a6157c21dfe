"""A record of a policy that was trained and scored elsewhere, so that it stands beside this project's own runs.

What is read, in one folder:

- `imported.yaml`: `solver: NAME` and, where known, `seed`, `steps`, `trainer` (what trained it, with its version),
  `policy` (a folder or a name), `objectives: {NAME: weight}` and `settings` (whatever else tells it from others).
- `generations.jsonl`: a row per response: `{"prompt": …, "response": …, NAME: score, …}`; higher is better.
- `before.jsonl`, if there is one: the same of the policy before training, from which the units of comparison are taken.
- `trainer_state.json`, if there is one: transformers' log, whose `rewards/NAME/mean` become the run's curves.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from pama_exp.config.own_options import strictly
from pama_exp.config.ranges import Range, admits, check
from pama_exp.errors import UserError, suggest
from pama_exp.storage import files
from pama_exp.tracking import folder as folders
from pama_exp.tracking.record import RunRecord

STAGE = "imported"
_TEXTS = ("prompt", "response")
_WEIGHT = Range(least=0)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Described:
    """imported.yaml."""

    solver: str
    seed: int = 0
    steps: int = 0
    trainer: str = "unknown"
    policy: str | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def import_run(folder: Path, output: Path | str) -> RunRecord:
    """Make a finished run's record in `output` from what lies in `folder`.

    Raises:
        UserError: if something of it is missing or makes no sense, or `output` holds something else.
    """
    described = _described(folder / "imported.yaml")
    after = _rows(folder / "generations.jsonl")
    names = list(described.objectives) or [key for key in after[0] if key not in _TEXTS]
    if not names:
        raise UserError(f"{folder / 'generations.jsonl'} holds no scores.", "Give each row a number per objective.")
    _check(folder / "generations.jsonl", after, names)
    before = _rows(folder / "before.jsonl") if (folder / "before.jsonl").exists() else []
    _check(folder / "before.jsonl", before, names)
    if folders.run_files(folders.run_folder(str(output))):
        raise UserError(f"{output} holds a run already.", "Name another folder for the record.")
    record = RunRecord.open(Path(output))
    with record.lock():
        record.write_config(_config(described, names))
        record.write_environment(["python", "-m", "pama_exp.runs", "import", str(folder), str(output)])
        for step, values in _curves(folder / "trainer_state.json", names):
            record.log_metrics(step, values)
        if before:
            record.log_metrics(0, {f"eval/proxy/{name}/mean": _mean(before, name) for name in names})
        record.log_metrics(described.steps, {f"eval/proxy/{name}/mean": _mean(after, name) for name in names})
        record.log_generations(
            described.steps,
            [
                {"split": "test", **{key: row[key] for key in _TEXTS}}
                | {f"proxy/{name}": float(row[name]) for name in names}
                for row in after
            ],
        )
        record.write_result(_result(described, names, before, after, output))
        record.write_status("complete", described.steps)
    return record


def _described(path: Path) -> _Described:
    try:
        given = strictly(files.read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:100]
        raise UserError(
            f"{path} cannot be read ({reason}).", "It says at least solver: NAME; docs/integrations.md has one."
        ) from None
    if not isinstance(given, Mapping) or "solver" not in given:
        raise UserError(f"{path} names no solver.", "Write solver: NAME, as tables are to call the run.")
    known = {one.name for one in fields(_Described)}
    for key in given:
        if key not in known:
            raise UserError(f"{path} has an unknown key '{key}'.", suggest(str(key), sorted(known)))
    described = _Described(**given)
    for key, kind in get_type_hints(_Described).items():
        check(getattr(described, key), kind, f"{path}: {key}")
    if described.steps < 0 or described.seed < 0 or not all(map(_WEIGHT.admits, described.objectives.values())):
        raise UserError(f"{path}: seed, steps and weights are not negative.", "Give numbers of at least 0.")
    return described


def _rows(path: Path) -> list[Row]:
    try:
        lines = files.read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).",
            'It holds a line per response: {"prompt": …, "response": …, "OBJECTIVE": score}.',
        ) from None
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON mapping.", "Write a mapping per line.")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty.", "It holds a line per response.")
    return rows


def _check(path: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    for number, row in enumerate(rows, start=1):
        for key in _TEXTS:
            if not isinstance(row.get(key), str):
                raise UserError(f"{path}, line {number} has no text '{key}'.", "Give each row prompt and response.")
        for name in names:
            value = row.get(name)
            if not admits(value, float):
                raise UserError(
                    f"{path}, line {number}: the score '{name}' is {json.dumps(value)[:40]}.", "Give a finite number."
                )


def _config(described: _Described, names: Sequence[str]) -> dict[str, Any]:
    nodes = {name: {"weight": float(described.objectives.get(name, 1.0)), "direction": "maximize"} for name in names}
    kept = {key: value for key, value in asdict(described).items() if key in ("trainer", "policy", "settings")}
    return {
        "stage": {"name": STAGE},
        "seed": described.seed,
        "objectives": nodes,
        "solver": {"name": described.solver},
        "data": {"domain": "text"},
        "training": {"steps": described.steps},
        "imported": kept,
    }


def _result(
    described: _Described, names: Sequence[str], before: Sequence[Row], after: Sequence[Row], output: Path | str
) -> dict[str, Any]:
    def means(rows: Sequence[Row], name: str) -> dict[str, Any] | None:
        return {"gold": None, "proxy": _mean(rows, name)} if rows else None

    units = {}
    for name in names if before else ():
        values = [float(row[name]) for row in before]
        units[name] = {"gold": None, "proxy": {"mean": _mean(before, name), "deviation": statistics.pstdev(values)}}
    return {
        "status": "complete",
        "seed": described.seed,
        "objectives": {name: {"before": means(before, name), "after": means(after, name)} for name in names},
        "true_hypervolume_share": {"before": None, "after": None},
        **({"calibration": units} if units else {}),
        "bill": None,
        "run_dir": str(output),
    }


def _curves(path: Path, names: Sequence[str]) -> list[tuple[int, dict[str, float]]]:
    """(step, {reward/NAME/mean: …}) of every row of the log that has them; none where there is no log."""
    if not path.exists():
        return []
    try:
        history = json.loads(files.read_text(path))["log_history"]
        rows = [
            (int(row["step"]), {f"reward/{n}/mean": row.get(f"rewards/{n}/mean") for n in names}) for row in history
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is no trainer's log.", "Copy it from the checkpoint, or leave it out.") from None
    found = [(step, {key: float(v) for key, v in row.items() if admits(v, float)}) for step, row in rows]
    return [(step, row) for step, row in found if row]


def _mean(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(float(row[name]) for row in rows)
