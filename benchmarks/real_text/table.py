"""The rows of benchmarks/results/real_text/runs.csv, one per run and objective, and the tables made of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from pama_exp.comparison.load import read_run
from pama_exp.comparison.statistics import Interval, holm, interval, paired_test

BASELINE = "linear"


@dataclass(frozen=True)
class Row:
    """What one run did to one objective, on unseen prompts.

    Attributes:
        objectives: of the run, joined by `+`.
        method, seed: as the benchmark names them.
        objective: the one that the rest is about.
        before, after: mean rewards.
        deviation: the rewards' standard deviation before training, the unit of gains.
        kl: in nats per response, at the last step.
        seconds: of the run.
        peak_gib: its peak memory.
    """

    objectives: str
    method: str
    seed: int
    objective: str
    before: float
    after: float
    deviation: float
    kl: float
    seconds: float
    peak_gib: float

    @property
    def gain(self) -> float:
        """In standard deviations of the policy that training started from."""
        return (self.after - self.before) / self.deviation


def rows_of(folder: Path, method: str, seed: int) -> list[Row]:
    """A row per objective of a finished run; none of a run that is not."""
    run = read_run(folder) if folder.is_dir() else None
    if run is None or run.result is None:
        return []
    result = run.result
    kl = [float(row["kl/response"]) for row in run.metrics if "kl/response" in row]
    return [
        Row(
            "+".join(result["objectives"]),
            method,
            seed,
            name,
            means["before"]["proxy"],
            means["after"]["proxy"],
            result["calibration"][name]["proxy"]["deviation"],
            kl[-1],
            result["seconds"],
            result["bill"]["peak_memory_bytes"] / 2**30,
        )
        for name, means in result["objectives"].items()
    ]


def load(path: Path) -> list[Row]:
    """What `save` wrote; none where there is nothing."""
    if not path.exists():
        return []
    kinds = {"seed": int, "objectives": str, "method": str, "objective": str}
    with path.open(newline="") as file:
        return [
            Row(**{key: kinds.get(key, float)(value) for key, value in line.items()}) for line in csv.DictReader(file)
        ]


def save(path: Path, rows: Iterable[Row]) -> None:
    """All rows in order, one for each run and objective: the last where there are several."""
    kept = {(row.objectives, row.seed, row.method, row.objective): row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for key in sorted(kept):
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in astuple(kept[key])])


def publish(document: Path, rows: Sequence[Row]) -> None:
    """Put the tables between the document's markers `real_text:tables`."""
    block = f"<!-- real_text:tables -->\n{tables(rows)}\n<!-- /real_text:tables -->"
    pattern = re.compile(r"<!-- real_text:tables -->.*?<!-- /real_text:tables -->", re.DOTALL)
    document.write_text(pattern.sub(lambda _: block, document.read_text()))


def tables(rows: Sequence[Row]) -> str:
    """One table for each set of objectives, in markdown."""
    sets = sorted({row.objectives for row in rows}, key=lambda names: (names.count("+"), names))
    return "\n\n".join(_table([row for row in rows if row.objectives == names]) for names in sets) or "Not run yet."


def _table(rows: Sequence[Row]) -> str:
    names = rows[0].objectives.split("+")
    methods = list(dict.fromkeys(row.method for row in rows))
    least = {m: _per_seed(rows, m, lambda own: min(row.gain for row in own)) for m in methods}
    tests = {m: paired_test(least[m], least[BASELINE]) for m in methods if m != BASELINE and BASELINE in least}
    tested = {m: test.p for m, test in tests.items() if test is not None and test.difference.low is not None}
    p = dict(zip(tested, holm(list(tested.values())), strict=True))
    lines = []
    for method in sorted(methods, key=lambda m: -sum(least[m].values()) / len(least[m])):
        own = [row for row in rows if row.method == method]
        changes = []
        for name in names:
            mine = [row for row in own if row.objective == name]
            before = sum(row.before for row in mine) / len(mine)
            changes.append(f"{before:.3g} → {_shown(interval([row.after for row in mine]), '.3g')}")
        mean = _per_seed(rows, method, lambda own: sum(row.gain for row in own) / len(own))
        gains = [_shown(interval(list(values.values())), "+.2f") for values in (least[method], mean)]
        kl = sum(row.kl for row in own) / len(own)
        corrected = f"{p[method]:.2g}" if method in p else "–"
        seeds = str(len(least[method]))
        lines.append([f"`{method}`", seeds, *changes, *gains, corrected, f"{kl:.2f}"])
    heads = ["method", "seeds", *(f"`{name}`" for name in names), "least gain", "mean gain"]
    heads += [f"p of the least gain against `{BASELINE}`", "KL"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def _per_seed(rows: Sequence[Row], method: str, measure: Callable[[Sequence[Row]], float]) -> dict[int, float]:
    own = [row for row in rows if row.method == method]
    return {seed: measure([row for row in own if row.seed == seed]) for seed in sorted({row.seed for row in own})}


def _shown(found: Interval | None, form: str) -> str:
    assert found is not None
    mean = format(found.mean, form)
    return mean if found.low is None or found.high is None else f"{mean} [{found.low:{form}}, {found.high:{form}}]"
