"""The confirmation of the league's leader: fresh seeds are kept out of the ranking, and its p is scipy's."""

import pytest
from benchmarks.league import confirm, page
from benchmarks.league.plan import Cell
from benchmarks.league.table import MEASURES, Row
from scipy.stats import ttest_rel

SHARES = {confirm.LEADER: [0.20, 0.22, 0.19], "linear": [0.04, 0.05, 0.05], "pama": [0.21, 0.25, 0.23]}


def row(entry, seed, share):
    return Row(Cell(5, "gold", "reward", entry, seed), dict.fromkeys(MEASURES, 0.0) | {"share": share})


@pytest.fixture
def rows():
    fresh = [row(entry, 100 + i, share) for entry, shares in SHARES.items() for i, share in enumerate(shares)]
    return [*fresh, row("linear", 0, 0.9)]


def test_each_opponent_has_the_holm_corrected_p_of_a_paired_t_test(rows):
    _, lines = confirm.confirmation_table(rows)
    p = {line[2].strip("`"): line[-1] for line in lines}
    raw = {name: ttest_rel(SHARES[confirm.LEADER], SHARES[name]).pvalue for name in ("linear", "pama")}
    low, high = sorted(raw, key=raw.__getitem__)
    assert p == {
        confirm.LEADER: "–",
        low: f"{2 * raw[low]:.2g}" + (" (behind)" if low == "pama" else ""),
        high: f"{max(2 * raw[low], raw[high]):.2g}" + (" (behind)" if high == "pama" else ""),
    }


def test_fresh_seeds_are_not_ranked(rows):
    made = page.sections(rows, {"linear": (), "pama": (), confirm.LEADER: ()})
    assert "90.0 % (1)" in made["coverage"]
    assert "20.3 %" not in made["5-gold"]
    assert "20.3 %" in made["confirmation"]
    assert f"9 of {confirm.planned()} runs" in made["state"]
