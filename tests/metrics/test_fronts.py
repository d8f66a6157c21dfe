"""Front measures against brute force over the definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from pama_exp.errors import UserError
from pama_exp.metrics import fronts

# A coarse grid, so that ties and duplicates are common.
coordinates = st.integers(-2, 6).map(lambda i: i / 4)


def point_sets(most: int):
    return st.integers(2, 4).flatmap(
        lambda n: st.lists(st.lists(coordinates, min_size=n, max_size=n), min_size=1, max_size=most).map(np.array)
    )


@given(point_sets(6))
@settings(deadline=None)
def test_hypervolume_is_the_volume_of_the_union_of_boxes(points):
    reference = np.zeros(points.shape[1])
    assert fronts.hypervolume(points, reference) == pytest.approx(
        oracles.hypervolume_by_inclusion_exclusion(points, reference), abs=1e-12
    )


@given(point_sets(8), st.integers(1, 5), st.integers(0, 1000))
@settings(deadline=None)
def test_distances_to_a_front(points, size, seed):
    front = np.random.default_rng(seed).integers(-2, 7, (size, points.shape[1])) / 4
    assert fronts.igd_plus(points, front) == pytest.approx(oracles.igd_plus(points, front), abs=1e-12)
    assert fronts.epsilon(points, front) == pytest.approx(oracles.epsilon(points, front), abs=1e-12)


@given(point_sets(8))
@settings(deadline=None)
def test_nondominated_keeps_equal_points_alike(points):
    assert fronts.nondominated(points).tolist() == oracles.nondominated(points)


def test_one_objective_is_a_line():
    assert fronts.hypervolume([[0.25], [0.75]], [0.0]) == 0.75
    assert fronts.nondominated([[0.25], [0.75]]).tolist() == [False, True]
    assert fronts.igd_plus([[0.25]], [[0.75]]) == 0.5
    assert fronts.epsilon([[0.25]], [[0.75]]) == 0.5


def test_points_below_the_reference_contribute_nothing():
    inside = [[0.5, 0.5]]
    below = [[0.5, 0.5], [-1.0, 5.0], [5.0, -1.0], [0.0, 9.0]]
    assert fronts.hypervolume(below, [0.0, 0.0]) == fronts.hypervolume(inside, [0.0, 0.0]) == 0.25


def test_empty_sets():
    none = np.zeros((0, 2))
    assert fronts.hypervolume(none, [0.0, 0.0]) == 0.0
    assert fronts.hypervolume([], [0.0, 0.0]) == 0.0
    assert fronts.igd_plus(none, [[1.0, 1.0]]) == float("inf")
    assert fronts.epsilon(none, [[1.0, 1.0]]) == float("inf")
    assert fronts.nondominated(none).tolist() == []
    for measure in (fronts.igd_plus, fronts.epsilon):
        with pytest.raises(UserError):
            measure([[1.0, 1.0]], none)


@given(point_sets(6))
@settings(deadline=None)
def test_spacing_is_the_deviation_of_nearest_neighbours(points):
    nearest = [
        min((sum(abs(p - q)) for j, q in enumerate(points) if j != i), default=0.0) for i, p in enumerate(points)
    ]
    expected = np.std(nearest, ddof=1) if len(points) > 1 else 0.0
    assert fronts.spacing(points) == pytest.approx(expected, abs=1e-12)


def test_even_points_have_no_spacing_deviation():
    assert fronts.spacing([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]) == 0.0
    assert fronts.spacing([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]]) > 0.5


@given(
    st.lists(point_sets(4).filter(lambda p: p.shape[1] == 2), min_size=1, max_size=5),
    st.sampled_from([25, 50, 75, 100]),
)
@settings(deadline=None)
def test_an_attainment_surface_bounds_what_that_share_of_the_sets_attains(sets, level):
    surface = fronts.attainment(sets, (level,))[level]
    needed = -(-level * len(sets) // 100)
    for cell in itertools.product(np.arange(-3, 8) / 4 + 0.125, repeat=2):
        attained_by = sum(bool((points >= cell).all(1).any()) for points in sets)
        assert bool((surface >= cell).all(1).any()) == (attained_by >= needed), cell


def test_attainment_in_three_dimensions():
    sets = [[[0.2, 0.8, 0.5]], [[0.6, 0.4, 0.5]], [[0.6, 0.8, 0.1]]]
    assert fronts.attainment(sets, (100,))[100].tolist() == [[0.2, 0.4, 0.1]]


def test_calibrated_units_depend_on_the_calibration_alone():
    calibration = fronts.Calibration(mean=(1.0, -2.0), deviation=(0.5, 0.0))
    assert calibration.normalise([[2.0, -1.0], [1.0, -2.0]]).tolist() == [[2.0, 1.0], [0.0, 0.0]]
    corner = calibration.normalise([[0.0, 0.0]]) * 0 + calibration.reference
    assert corner.tolist() == [[-2.0, -2.0]]
    assert fronts.hypervolume(calibration.normalise([[1.0, -2.0]]), calibration.reference) == 4.0
