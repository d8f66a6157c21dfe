"""The confirmation of the league's leader: fresh seeds and worlds are not ranked, and its p is scipy's."""

import pytest
from benchmarks.league import confirm, page
from benchmarks.league.plan import WORLDS, Cell, entries, job, preparations
from benchmarks.league.table import MEASURES, Row
from PIL import Image
from scipy.stats import ttest_rel

SHARES = {
    confirm.LEADER: [0.20, 0.22, 0.19],
    confirm.LEVEL: [0.11, 0.12, 0.14],
    "linear": [0.04, 0.05, 0.05],
    "pama": [0.21, 0.25, 0.23],
}


def row(entry, seed, share, world="first"):
    return Row(Cell(5, "gold", "reward", entry, seed, world), dict.fromkeys(MEASURES, 0.0) | {"share": share})


@pytest.fixture
def rows():
    fresh = [row(entry, 100 + i, share) for entry, shares in SHARES.items() for i, share in enumerate(shares)]
    return [*fresh, row("linear", 0, 0.9)]


@pytest.mark.parametrize(("tested", "column"), [(confirm.LEADER, -2), (confirm.LEVEL, -1)])
def test_each_opponent_has_the_holm_corrected_p_of_a_paired_t_test(rows, tested, column):
    _, lines = confirm.confirmation_table(rows, "first")
    p = {line[2].strip("`"): line[column] for line in lines}
    raw = {name: ttest_rel(SHARES[tested], SHARES[name]).pvalue for name in ("linear", "pama")}
    low, high = sorted(raw, key=raw.__getitem__)
    assert p == {
        confirm.LEADER: "–",
        confirm.LEVEL: "–",
        low: f"{2 * raw[low]:.2g}" + (" (behind)" if low == "pama" else ""),
        high: f"{max(2 * raw[low], raw[high]):.2g}" + (" (behind)" if high == "pama" else ""),
    }


def test_fresh_seeds_are_not_ranked(rows):
    made = page.sections(rows, {"linear": (), "pama": (), confirm.LEADER: ()})
    assert "90.0 % (1)" in made["coverage"]
    assert "20.3 %" not in made["5-gold"]
    assert "20.3 %" in made["confirmation"]
    assert f"12 of {confirm.planned()} runs" in made["state"]


def test_the_confirmation_is_drawn_beside_the_page_once_there_are_runs(rows, tmp_path):
    document = tmp_path / "league.md"
    document.write_text("")
    page.publish([row("linear", 0, 0.9)], {}, tmp_path / "results", document)
    assert not (tmp_path / "league.png").exists()
    page.publish(rows, {}, tmp_path / "results", document)
    with Image.open(tmp_path / "league.png") as drawn:
        one_line = drawn.size
    second = [row("linear", seed, 0.7, "second") for seed in (100, 101, 102)]
    page.publish([*rows, *second], {}, tmp_path / "results", document)
    with Image.open(tmp_path / "league.png") as drawn:  # a line of panels for each world
        assert drawn.size[0] == one_line[0]
        assert drawn.size[1] > 1.5 * one_line[1]


def test_a_second_world_has_a_table_of_its_own_and_is_not_ranked(rows):
    second = [row("linear", seed, 0.7, "second") for seed in (0, 100, 101)] + [row(confirm.LEADER, 100, 0.8, "second")]
    made = page.sections([*rows, *second], {"linear": (), "pama": (), confirm.LEADER: ()})
    assert "| `linear` | 2 | 70.0 %" in made["second-world"]  # seed 0 is of the ranking's
    assert "70.0 %" not in made["coverage"] + made["5-gold"] + made["confirmation"]
    assert f"on a second world: **3 of {confirm.planned()}**" in made["state"]


def test_a_cell_of_the_second_world_runs_there_after_its_own_preparations():
    cell = Cell(2, "gold", "reward", "pama", 100, "second")
    assert set(WORLDS["second"]) <= set(job(cell, entries()).overrides)
    assert not set(WORLDS["second"]) & set(job(Cell(2, "gold", "reward", "pama", 100), entries()).overrides)
    assert cell.name != Cell(2, "gold", "reward", "pama", 100).name
    (sft,), models = preparations("second")
    assert all(set(WORLDS["second"]) <= set(one.overrides) for one in [sft, *models])
    assert len(models) == 5
