"""What notebooks show of runs, comparisons and fronts holds their numbers, and text of others stays text."""

import re
from xml.etree import ElementTree

import pytest

from pama_exp import FactWorld, compare, load_runs
from pama_exp.storage import html_view
from records import write_run


@pytest.fixture
def runs(tmp_path):
    for seed in range(3):
        write_run(
            tmp_path / f"p{seed}", "solver=pama", f"seed={seed}", after={"helpful": 0.7 + seed / 100, "concise": 0.6}
        )
        write_run(tmp_path / f"l{seed}", "solver=linear", f"seed={seed}", after={"helpful": 0.3, "concise": 0.9})
    return load_runs([tmp_path])


def test_a_run_shows_its_rewards(runs):
    shown = runs[-1]._repr_html_()
    assert "pama, seed 2, complete" in shown
    assert re.search(r"helpful</td>.*0\.400.*0\.720", shown)


def test_an_unfinished_run_shows_its_state(tmp_path):
    write_run(tmp_path / "run", state="interrupted")
    (run,) = load_runs([tmp_path])
    assert "interrupted" in run._repr_html_()


def test_a_comparison_shows_its_groups(runs):
    shown = compare(runs)._repr_html_()
    assert "pama" in shown
    assert "linear" in shown
    assert "0.710" in shown


def test_a_front_shows_a_point_for_each_preference(runs):
    (front,) = (front for front in compare(runs).fronts if front.family == "pama")
    shown = front._repr_html_()
    assert shown.count("<circle") == len(front.points) == 1
    assert "concise" in shown


@pytest.mark.parametrize(
    ("names", "mark"), [(["helpful", "concise"], "<polyline"), (["helpful", "concise", "humor"], "best humor")]
)
def test_the_true_front_is_a_line_or_its_ends(names, mark):
    assert mark in FactWorld(num_entities=4, values_per_attribute=4).true_front(names, "test")._repr_html_()


def test_names_with_markup_stay_text_and_every_view_is_well_formed():
    odd = "<b>&'\""
    for shown in (html_view.table(odd, [odd], [[odd]]), html_view.plot([odd, odd], {odd: [(0.0, 1.0)]})):
        assert "<b>" not in shown
        ElementTree.fromstring(f"<div>{shown.replace('&ensp;', ' ')}</div>")


def test_points_stand_where_their_numbers_say():
    shown = html_view.plot(["x", "y"], {"a": [(0.0, 0.0), (1.0, 0.5)]})
    (first, second) = [tuple(map(float, found)) for found in re.findall(r"cx='([\d.]+)' cy='([\d.]+)'", shown)]
    assert first[0] < second[0]
    assert first[1] > second[1]  # upwards is more
