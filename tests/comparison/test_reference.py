"""What points are measured against stands in the order of the objectives asked for, whatever the run's own is."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from pama_exp.comparison import load_runs, reference
from pama_exp.world import FactWorld
from records import write_run

WORLD = FactWorld(seed=0, num_entities=12, num_attributes=8, values_per_attribute=6)
OWN, ASKED = ["polite", "helpful", "concise"], ["helpful", "concise", "polite"]
CALIBRATION = {
    "polite": {"gold": None, "proxy": {"mean": -1.0, "deviation": 3.0}},
    "helpful": {"gold": None, "proxy": {"mean": 1.0, "deviation": 0.5}},
    "concise": {"gold": None, "proxy": {"mean": 2.0, "deviation": 0.25}},
}


def run_with(*overrides, **extra):
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), f"objectives=[{','.join(OWN)}]", *overrides, after=dict.fromkeys(OWN, 0.5), **extra)
        return load_runs([folder])[0]


def test_the_true_front_is_in_the_order_that_is_asked_for():
    point = [0.6, 0.8, 0.3]
    found = reference.reference_of(run_with(), ASKED, "gold").measure([point])
    assert found["regret"] == pytest.approx(WORLD.regret(point, ASKED, "test"))
    assert found["regret"] != pytest.approx(WORLD.regret(point, OWN, "test"), abs=0.01)
    assert found["share"] == pytest.approx(WORLD.hypervolume_share(point, ASKED, "test"))


def test_a_calibration_is_in_the_order_that_is_asked_for():
    run = run_with("objectives.helpful.direction=minimize", gold=False, calibration=CALIBRATION)
    point = [1.5, 2.0, 2.0]  # one deviation above the mean, none and one; the corner is two below
    found = reference.reference_of(run, ASKED, "proxy").measure([point])
    assert found["hypervolume"] == pytest.approx(np.prod([3.0, 2.0, 3.0]))
