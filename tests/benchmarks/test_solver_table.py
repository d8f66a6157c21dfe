"""docs/solver-table.md has every solver, and says of each what its yaml, its docstring and the league's rows say."""

import csv
import re

import pytest
from benchmarks.league import solver_table, table
from benchmarks.league.confirm import is_fresh
from benchmarks.league.rank import blocks

from commands import ROOT
from pama_exp.config.places import CONF

PAGE = (ROOT / "docs" / "solver-table.md").read_text()


def rows():
    found = re.findall(r"^\| \[([\w-]+)\]\(solvers\.md#\1\) \| (.*) \|$", PAGE, re.M)
    return {name: cells.split(" | ") for name, cells in found}


def test_the_page_is_up_to_date():
    """If not: python -m benchmarks.league --publish-only"""
    rows = table.load(ROOT / "benchmarks" / "results" / "league" / "runs.csv")
    assert solver_table.page(blocks(row for row in rows if not is_fresh(row))) == PAGE


def test_every_solver_has_a_row():
    assert sorted(rows()) == sorted(path.stem for path in (CONF / "solver").glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "cost", "needs"),
    [
        ("pama", "1", "–"),
        ("linear", "1", "–"),
        ("mgda", "N + 1", "–"),
        ("mgda-ub", "1, N of the head", "–"),
        ("gdpo", "1", "groups"),
        ("cagrad", "N + 1", "extra"),
        ("dynamic-hv", "1", "validation"),
    ],
)
def test_a_row_says_what_a_solver_costs_and_needs(name, cost, needs):
    assert rows()[name][1:3] == [cost, needs]


def test_where_it_stands_is_the_mean_over_the_seeds_of_the_csv():
    with (ROOT / "benchmarks" / "results" / "league" / "runs.csv").open() as file:
        cells = [r for r in csv.DictReader(file) if r["world"] == "first" and int(r["seed"]) < 100]
    keys = ("n", "reward", "protocol", "entry")
    shares = [float(r["share"]) for r in cells if [r[key] for key in keys] == ["2", "gold", "reward", "pama"]]
    assert rows()["pama"][3] == f"{100 * sum(shares) / len(shares):.1f} % ({len(shares)})"
