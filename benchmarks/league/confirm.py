"""The leader, frozen on the ranking's seeds, against four others on seeds and a world that nobody has looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from pama_exp.comparison.statistics import holm, interval, paired_test

from .plan import OBJECTIVES, REWARDS
from .rank import Seeds, blocks
from .table import Row

# Chosen on seeds 0 to 7 of the first world, and changed only together with the fresh seeds.
LEADER = "fair-shifted-pama-blend"
# The same with a barrier, for those who may not let an objective fall. Chosen on seeds 0 to 3, with five objectives.
LEVEL = "fair-shifted-pama-level"
_TESTED = {LEADER: "p of the leader's lead", LEVEL: "p of the level entry's lead"}
OPPONENTS = ("linear", "pama", "mgda-ub", "proportional-fairness", "dvao-group")
FRESH = range(100, 108)

Table = tuple[list[str], list[list[str]]]


def is_fresh(row: Row) -> bool:
    """Whether the row belongs to the confirmation, and so not to the ranking."""
    return row.cell.seed in FRESH or row.cell.world != "first"


def planned() -> int:
    """Runs of the whole confirmation on one world."""
    return (2 + len(OPPONENTS)) * len(OBJECTIVES) * len(REWARDS) * len(FRESH)


def confirmed(rows: Sequence[Row], world: str) -> list[Row]:
    """The rows of the confirmation on a world: those of fresh seeds."""
    return [row for row in rows if row.cell.world == world and row.cell.seed in FRESH]


def confirmation_table(rows: Sequence[Row], world: str) -> Table:
    """A line for each block and entry: share with its interval, gains, and two entries' paired tests against it."""
    header = ["N", "rewards", "entry", "seeds", "share", "least gain", "mean gain", "KL", *_TESTED.values()]
    lines = []
    for (protocol, n, reward), by_entry in blocks(confirmed(rows, world)).items():
        if protocol == "reward" and LEADER in by_entry:
            tests = [_tests(by_entry, tested) for tested in _TESTED]
            lines += [
                [str(n), reward, f"`{entry}`", *_figures(by_entry[entry]), *(p.get(entry, "–") for p in tests)]
                for entry in (LEADER, LEVEL, *OPPONENTS)
                if entry in by_entry
            ]
    return header, lines or [["not run"] * len(header)]


def _tests(by_entry: Mapping[str, Seeds], tested: str) -> dict[str, str]:
    """{opponent: p} of two-sided paired t-tests over common seeds, Holm-corrected within the block."""
    own = {seed: row["share"] for seed, row in by_entry.get(tested, {}).items()}
    made, ahead = {}, {}
    for name in OPPONENTS:
        other = {seed: row["share"] for seed, row in by_entry.get(name, {}).items()}
        test = paired_test(own, other)
        if test is not None:
            common = sorted(own.keys() & other.keys())
            made[name] = test.p
            ahead[name] = fmean(own[seed] - other[seed] for seed in common) > 0
    corrected = dict(zip(made, holm(list(made.values())), strict=True))
    return {name: f"{value:.2g}{'' if ahead[name] else ' (behind)'}" for name, value in corrected.items()}


def _figures(seeds: Seeds) -> list[str]:
    student = interval([row["share"] for row in seeds.values()])
    has_ends = student is not None and student.low is not None and student.high is not None
    ends = f" [{100 * student.low:.1f}, {100 * student.high:.1f}]" if has_ends else ""
    means = {name: fmean(row[name] for row in seeds.values()) for name in ("share", "least_gain", "mean_gain", "kl")}
    return [
        str(len(seeds)),
        f"{100 * means['share']:.1f} %{ends}",
        f"{means['least_gain']:+.2f}",
        f"{means['mean_gain']:+.2f}",
        f"{means['kl']:.2f}",
    ]
