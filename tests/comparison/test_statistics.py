"""Intervals, paired tests and their correction against scipy and against numbers worked out by hand."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from pama_exp.comparison.statistics import holm, interval, paired_test, t_interval

values = st.lists(st.integers(-40, 40).map(lambda i: i / 8), min_size=3, max_size=9)


def by_seed(numbers):
    return dict(enumerate(numbers))


@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=40)
def test_an_interval_is_scipys(data, level):
    ours = interval(data, level)
    assert (ours.mean, ours.count) == (pytest.approx(np.mean(data)), len(data))
    if np.ptp(data) > 0:
        theirs = stats.ttest_1samp(data, 0.0).confidence_interval(level)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_an_interval_by_hand():
    # 1, 2, 3: s = 1, t of 2 degrees of freedom at 97.5 % = 4.302653 (tables), so 2 ± 4.302653 / √3.
    found = interval([1.0, 2.0, 3.0])
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


@pytest.mark.parametrize("seeds", [3, 4, 5, 8, 20])
def test_a_95_percent_interval_covers_the_true_mean_in_93_to_97_percent(seeds):
    low, high = t_interval(np.random.default_rng(seeds).normal(0.7, 0.2, (20_000, seeds)))
    assert 0.93 <= np.mean((low <= 0.7) & (high >= 0.7)) <= 0.97


@pytest.mark.parametrize("data", [[2.0], [0.5, 0.5], [0.0, 1.0]])
def test_fewer_than_three_values_have_no_interval(data):
    found = interval(data)
    assert (found.mean, found.low, found.high, found.count) == (np.mean(data), None, None, len(data))


def test_no_value_has_no_mean_and_equal_ones_no_width():
    assert interval([]) is None
    found = interval([0.5, 0.5, 0.5])
    assert (found.low, found.high) == (0.5, 0.5)


@given(values, st.integers(0, 1000))
@example([0.0, 0.0, 0.0, 3.875, 0.0, 0.0, 0.0, -4.625], 200)  # a mean near 0, which rounding moves
@settings(deadline=None, max_examples=40)
def test_the_paired_test_is_scipys_and_the_sign_flip_test_counts_sign_patterns(first, seed):
    second = np.random.default_rng(seed).normal(0.0, 1.0, len(first))
    ours = paired_test(by_seed(first), by_seed(second.tolist()))
    assert ours.difference.mean == pytest.approx(np.mean(np.array(first) - second))
    assert ours.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    differences = [Fraction(one) - Fraction(other) for one, other in zip(first, second.tolist(), strict=True)]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=len(first))
    ]
    as_far = sum(abs(each) >= abs(sum(differences)) for each in sums)  # of all sign patterns, exactly
    assert ours.p_sign == pytest.approx(as_far / len(sums))


def test_the_sign_flip_test_by_hand():
    # Differences 1, 2, 3: of 8 sign patterns only +++ and −−− reach a mean of 2.
    assert paired_test(by_seed([1.0, 2.0, 3.0]), by_seed([0.0, 0.0, 0.0])).p_sign == 2 / 8


def test_many_pairs_are_tested_by_sampled_signs():
    source = np.random.default_rng(3)
    first, second = source.normal(0.6, 1.0, 30), source.normal(0.0, 1.0, 30)
    ours = paired_test(by_seed(first.tolist()), by_seed(second.tolist()))
    assert ours.p_sign == pytest.approx(ours.p, abs=0.02)


def test_only_common_seeds_are_paired():
    found = paired_test({0: 1.0, 1: 2.0, 7: 100.0}, {0: 0.0, 1: 0.5, 3: -100.0})
    assert found.difference.count == 2
    assert found.difference.mean == pytest.approx(1.25)
    assert paired_test({0: 1.0}, {0: 2.0}) is None
    assert paired_test({0: 1.0, 1: 1.0}, {2: 2.0, 3: 1.0}) is None


def test_equal_differences_need_no_division_by_zero():
    assert paired_test({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert paired_test({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}).p == 0.0


def test_holm_by_hand():
    # sorted: 0.01·4, 0.02·3, 0.03·2 (raised to 0.06), 0.5·1
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_holm_lies_between_the_p_values_and_bonferroni(p):
    corrected = holm(p)
    for raw, better in zip(p, corrected, strict=True):
        assert raw <= better <= min(1.0, len(p) * raw) or better == pytest.approx(min(1.0, len(p) * raw))
    # Rejecting in order: a smaller p is never corrected to a larger one.
    ordered = [corrected[i] for i in np.argsort(p, kind="stable")]
    assert ordered == sorted(ordered)
