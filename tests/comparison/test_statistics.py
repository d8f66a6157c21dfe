"""Intervals, paired tests and their correction against scipy and against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pama_exp.comparison.statistics import holm, interval, paired_test

values = st.lists(st.integers(-40, 40).map(lambda i: i / 8), min_size=3, max_size=9)


def by_seed(numbers):
    return dict(enumerate(numbers))


def test_a_bootstrap_interval_is_scipys():
    data = np.random.default_rng(1).normal(3.0, 1.0, 12)
    theirs = stats.bootstrap((data,), np.mean, method="percentile", n_resamples=9999, rng=0).confidence_interval
    ours = interval(data.tolist())
    assert ours.mean == pytest.approx(data.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    source = np.random.default_rng(2)
    found = [interval(source.normal(0.0, 1.0, 20).tolist()) for _ in range(300)]
    covered = np.mean([one.low <= 0.0 <= one.high for one in found])
    assert 0.88 <= covered <= 0.98  # percentile intervals of 20 values are a little narrow


def test_one_value_has_no_interval_and_none_no_mean():
    assert interval([2.0]).low is None
    assert interval([]) is None
    assert interval([0.5, 0.5]) == interval([0.5, 0.5])
    assert (interval([0.5, 0.5]).low, interval([0.5, 0.5]).high) == (0.5, 0.5)


@given(values, st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_paired_tests_are_scipys(first, seed):
    second = np.random.default_rng(seed).normal(0.0, 1.0, len(first))
    ours = paired_test(by_seed(first), by_seed(second.tolist()))
    assert ours.difference.mean == pytest.approx(np.mean(np.array(first) - second))
    assert ours.p == pytest.approx(stats.ttest_rel(first, second).pvalue)

    def mean_difference(x, y):
        return np.mean(x - y)

    theirs = stats.permutation_test(
        (np.array(first), second), mean_difference, permutation_type="samples", n_resamples=np.inf
    )
    assert ours.p_sign == pytest.approx(theirs.pvalue)


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
