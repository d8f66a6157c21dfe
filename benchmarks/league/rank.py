"""Who leads: means, interquartile means, ranks with intervals, and how often one entry's run beats another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pama_exp.comparison.statistics import LEAST, holm, interval, paired_test

from .table import MEASURES, Row

BASELINE = "linear"
_RESAMPLES = 2000

Block = tuple[str, int, str]  # protocol, number of objectives, reward
Seeds = Mapping[int, Row]


@dataclass(frozen=True)
class Standing:
    """An entry in one block.

    Attributes:
        entry: its name.
        seeds: of its runs.
        rank: by mean share, 1 the best.
        ranks: both ends of its 95 % bootstrap interval; None below three seeds.
        means: of every measure.
        share: ends of Student's 95 % interval of the mean share; None below three seeds.
        deviation: of the share over seeds; None below two.
        improvement: P(a run's share exceeds a run's of the baseline); None without a baseline.
        p: of the paired t-test against the baseline, Holm-corrected in the block; None below two common seeds.
    """

    entry: str
    seeds: tuple[int, ...]
    rank: int
    ranks: tuple[int, int] | None
    means: Mapping[str, float]
    share: tuple[float, float] | None
    deviation: float | None
    improvement: float | None
    p: float | None


def blocks(rows: Iterable[Row]) -> dict[Block, dict[str, dict[int, Row]]]:
    """{(protocol, n, reward): {entry: {seed: row}}}"""
    found: dict[Block, dict[str, dict[int, Row]]] = {}
    for row in rows:
        cell = row.cell
        found.setdefault((cell.protocol, cell.n, cell.reward), {}).setdefault(cell.entry, {})[cell.seed] = row
    return dict(sorted(found.items()))


def standings(block: Mapping[str, Seeds]) -> list[Standing]:
    """The block's entries, the best mean share first."""
    shares = {entry: np.array([row["share"] for row in seeds.values()]) for entry, seeds in block.items()}
    order = sorted(shares, key=lambda entry: -shares[entry].mean())
    ranges = rank_intervals([shares[entry] for entry in order])
    base = block.get(BASELINE)
    tests = {
        entry: paired_test(*({seed: row["share"] for seed, row in side.items()} for side in (block[entry], base)))
        for entry in order
        if base is not None and entry != BASELINE
    }
    made = {entry: test.p for entry, test in tests.items() if test is not None}
    corrected = dict(zip(made, holm(list(made.values())), strict=True))
    found = []
    for place, entry in enumerate(order):
        student = interval(shares[entry].tolist())
        has_interval = student is not None and student.low is not None and student.high is not None
        found.append(
            Standing(
                entry,
                tuple(sorted(block[entry])),
                place + 1,
                ranges[place],
                {name: float(np.mean([row[name] for row in block[entry].values()])) for name in MEASURES},
                (student.low, student.high) if has_interval else None,
                float(shares[entry].std(ddof=1)) if len(shares[entry]) > 1 else None,
                improvement(shares[entry], shares[BASELINE]) if base is not None and entry != BASELINE else None,
                corrected.get(entry),
            )
        )
    return found


def rank_intervals(samples: Sequence[NDArray[np.float64]]) -> list[tuple[int, int] | None]:
    """95 % of the ranks that the means take when every entry's seeds are drawn again, with replacement.

    None for an entry of fewer than three seeds, which as the only draw would always keep its mean.
    """
    generator = np.random.default_rng(0)
    drawn = np.stack(
        [sample[generator.integers(len(sample), size=(_RESAMPLES, len(sample)))].mean(1) for sample in samples]
    )
    ranks = 1 + (drawn[:, None, :] < drawn[None, :, :]).sum(1)
    ends = np.percentile(ranks, [2.5, 97.5], axis=1, method="nearest").astype(int)
    return [
        (int(low), int(high)) if len(sample) >= LEAST else None
        for sample, low, high in zip(samples, *ends, strict=True)
    ]


def improvement(first: ArrayLike, second: ArrayLike) -> float:
    """P(X > Y) + ½ P(X = Y) over all pairs of runs (Agarwal et al. 2021, "probability of improvement")."""
    x, y = np.asarray(first, dtype=np.float64)[:, None], np.asarray(second, dtype=np.float64)[None]
    return float((x > y).mean() + (x == y).mean() / 2)


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half; of few values those at the edge count by the part that lies within."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(weights @ ordered / weights.sum())


@dataclass(frozen=True)
class Lead:
    """How far an entry is ahead of the baseline over all cells that both have run.

    Attributes:
        entry: its name.
        cells: how many.
        iqm: interquartile mean of the differences of share^(1/N), which can be compared across N.
        ends: of its 95 % bootstrap interval; None below three cells.
        least: the least of the blocks' mean differences.
    """

    entry: str
    cells: int
    iqm: float
    ends: tuple[float, float] | None
    least: float


def leads(found: Mapping[Block, Mapping[str, Seeds]]) -> list[Lead]:
    """Every entry but the baseline, the largest lead first; blocks of the ranking protocol."""
    differences: dict[str, dict[Block, list[float]]] = {}
    for block, by_entry in found.items():
        base = by_entry.get(BASELINE)
        if block[0] != "reward" or base is None:
            continue
        for entry, seeds in by_entry.items():
            common = [seed for seed in seeds if seed in base]
            if entry != BASELINE and common:
                differences.setdefault(entry, {})[block] = [
                    rooted(seeds[seed], block[1]) - rooted(base[seed], block[1]) for seed in common
                ]
    generator, result = np.random.default_rng(0), []
    for entry, by_block in differences.items():
        every = np.array([value for values in by_block.values() for value in values])
        drawn = [interquartile_mean(generator.choice(every, len(every))) for _ in range(_RESAMPLES // 4)]
        ends = tuple(float(end) for end in np.percentile(drawn, [2.5, 97.5])) if len(every) >= LEAST else None
        least = min(float(np.mean(values)) for values in by_block.values())
        result.append(Lead(entry, len(every), interquartile_mean(every), ends, least))  # type: ignore[arg-type]
    return sorted(result, key=lambda lead: -lead.iqm)


def rooted(row: Row, count: int) -> float:
    """share^(1/N): the geometric mean per objective, as far as the share is a product."""
    return float(max(row["share"], 0.0) ** (1 / count))
