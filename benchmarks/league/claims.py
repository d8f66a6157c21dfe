"""The paper's claims of PAMA, each with its test on the study's runs: confirmed, refuted, or undecided."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.study.plan import OBJECTIVES, REWARDS
from scipy import stats

from pama_exp.comparison.statistics import Paired, holm, paired_test

STUDY = Path(__file__).parents[1] / "results" / "study"
RIVALS = ("linear", "mgda-ub")  # the paper's own baselines
LEVEL = 0.05

Records = Sequence[Mapping[str, str]]
Measure = Callable[[Mapping[str, str]], float]
Test = tuple[str, Paired, float]  # label, test, p after Holm's correction


def read(name: str) -> list[dict[str, str]]:
    """A csv of the study's."""
    with (STUDY / name).open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> tuple[list[str], list[list[str]]]:
    """A row per claim."""
    runs, steps = read("runs.csv"), read("steps.csv")
    rows = [consistently_better(runs), balance(runs), stability(runs), cost(runs), stationarity(steps)]
    return ["claim", "verdict", "test"], rows


def consistently_better(runs: Records) -> list[str]:
    """Against both baselines in every block, by share."""
    tests = _tests(runs, _share)
    ahead = [label for label, test, p in tests if p < LEVEL and test.difference.mean > 0]
    behind = [label for label, test, p in tests if p < LEVEL and test.difference.mean < 0]
    worse = [label for label, test, _ in tests if test.difference.mean < 0]
    said = f"paired t-tests of the share, Holm over {len(tests)}: ahead in {len(ahead)} ({', '.join(ahead) or 'none'})"
    said += f"; behind in {len(behind)}; its mean is the lower in {len(worse)} ({', '.join(worse) or 'none'})"
    return ["consistently better than MORLHF and MGDA-UB", _verdict(ahead, behind, len(tests)), said]


def balance(runs: Records) -> list[str]:
    """The objective that gained least gains more than under the baselines."""
    tests = _tests(runs, _least_gain)
    ahead = [label for label, test, p in tests if p < LEVEL and test.difference.mean > 0]
    behind = [label for label, test, p in tests if p < LEVEL and test.difference.mean < 0]
    said = (
        f"paired t-tests of the least gain in reward, Holm over {len(tests)}: ahead in {', '.join(ahead) or 'none'}; "
    )
    return ["balanced", _verdict(ahead, behind, len(tests)), said + f"behind in {', '.join(behind) or 'none'}"]


def stability(runs: Records) -> list[str]:
    """The share varies less over seeds."""
    labels, p_values, less = [], [], []
    for label, mine, other in _pairs(runs, _share):
        first, second = list(mine.values()), list(other.values())
        labels.append(label)
        p_values.append(float(stats.levene(first, second, center="median").pvalue))
        less.append(stdev(first) < stdev(second))
    corrected = holm(p_values)
    ahead = [label for label, p, is_less in zip(labels, corrected, less, strict=True) if p < LEVEL and is_less]
    behind = [label for label, p, is_less in zip(labels, corrected, less, strict=True) if p < LEVEL and not is_less]
    said = (
        f"Brown-Forsythe tests of the share's spread, Holm over {len(labels)}: less in {', '.join(ahead) or 'none'}; "
    )
    return ["stable", _verdict(ahead, behind, len(labels)), said + f"more in {', '.join(behind) or 'none'}"]


def cost(runs: Records) -> list[str]:
    """Backward passes per prompt do not grow with N."""
    passes = {
        n: {
            float(r["bill/backwards"]) / float(r["bill/prompts"])
            for r in runs
            if r["block"] == f"{n}-gold" and _is(r, "pama")
        }
        for n in OBJECTIVES
    }
    flat = len(set.union(*passes.values())) == 1
    said = "; ".join(f"N = {n}: {', '.join(f'{p:g}' for p in sorted(found))}" for n, found in passes.items())
    return [
        "cost O(n), free of the parameters' number",
        "confirmed" if flat else "refuted",
        f"backward passes per prompt, {said}",
    ]


def stationarity(steps: Records) -> list[str]:
    """The residual ‖Σ wⁱ gⁱ‖ falls."""
    said, falls = [], []
    for n in OBJECTIVES:
        rows = [r for r in steps if r["block"] == f"{n}-gold" and r["group"] == "pama" and r["stationarity_residual"]]
        values = [float(r["stationarity_residual"]) for r in sorted(rows, key=lambda r: int(r["step"]))]
        tail = fmean(values[-max(1, len(values) // 3) :])
        falls.append(tail < values[0])
        said.append(f"N = {n}: {values[0]:.2f} → {tail:.2f}")
    verdict = "confirmed" if all(falls) else "refuted" if not any(falls) else "undecided"
    return [
        "converges to a Pareto stationary point",
        f"{verdict} within 50 steps",
        f"residual at the first step → over the last third, no test: {'; '.join(said)}",
    ]


def _tests(runs: Records, measure: Measure) -> list[Test]:
    found = [(label, paired_test(mine, other)) for label, mine, other in _pairs(runs, measure)]
    kept = [(label, test) for label, test in found if test is not None]
    return [(label, test, p) for (label, test), p in zip(kept, holm([test.p for _, test in kept]), strict=True)]


def _pairs(runs: Records, measure: Measure) -> list[tuple[str, dict[int, float], dict[int, float]]]:
    found = []
    for n in OBJECTIVES:
        for reward in REWARDS:
            block = [r for r in runs if r["block"] == f"{n}-{reward}"]
            by_solver = {s: {int(r["seed"]): float(measure(r)) for r in block if _is(r, s)} for s in ("pama", *RIVALS)}
            found += [(f"N = {n} {reward} against {rival}", by_solver["pama"], by_solver[rival]) for rival in RIVALS]
    return found


def _verdict(ahead: Sequence[str], behind: Sequence[str], count: int) -> str:
    return "refuted" if behind else "confirmed" if len(ahead) == count else "undecided"


def _is(record: Mapping[str, str], solver: str) -> bool:
    return record["group"] == solver


def _share(record: Mapping[str, str]) -> float:
    return float(record["share"])


def _least_gain(record: Mapping[str, str]) -> float:
    names = [key.split("/")[1] for key in record if key.startswith("gold/") and key.endswith("/after") and record[key]]
    return min(float(record[f"gold/{name}/after"]) - float(record[f"gold/{name}/before"]) for name in names)
