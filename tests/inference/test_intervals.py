"""Intervals and tests against SciPy's, and on simulated runs; the proof of their coverage is `intervals_cover`."""

import math

import numpy as np
import pytest
from scipy import stats

from latentmix.inference import mcnemar_test, mean_interval, paired_interval

from tests.verify.proofs.intervals import check


def test_mean_interval_is_that_of_scipy():
    values = np.random.default_rng(0).normal(3.0, 2.0, 5)
    interval = mean_interval(values, 0.95)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.mean, interval.sd, interval.n) == pytest.approx((values.mean(), values.std(ddof=1), 5))


def test_one_value_has_no_interval():
    interval = mean_interval([2.5])
    assert (interval.mean, interval.n, interval.bounded) == (2.5, 1, False)
    assert math.isnan(interval.low)
    assert interval.to_dict() == {"mean": 2.5, "n": 1}


def test_two_runs_are_compared_as_by_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.0, 1.0, (2, 50))
    interval, expected = paired_interval(first, second, 0.9), stats.ttest_rel(first, second)
    limits = expected.confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high))
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert not interval.over_seeds


def test_where_runs_alone_vary_groups_are_compared_as_by_welch():
    """Without variation among the data the interval is Welch's of the runs' means."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.0, 1.0, 4), rng.normal(1.0, 3.0, 3)
    interval = paired_interval(np.tile(first[:, None], 30), np.tile(second[:, None], 30), 0.9)
    expected = stats.ttest_ind(first, second, equal_var=False)
    limits = expected.confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high))
    assert (interval.p_value, interval.df) == pytest.approx((expected.pvalue, expected.df))


def test_variances_over_seeds_and_data_add():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.0, 1.0, (3, 40)), rng.normal(0.0, 1.0, (2, 40))
    interval = paired_interval(first, second)
    over_runs = first.mean(1).var(ddof=1) / 3 + second.mean(1).var(ddof=1) / 2
    over_data = (first.mean(0) - second.mean(0)).var(ddof=1) / 40
    assert interval.se == pytest.approx(math.sqrt(over_runs + over_data))
    assert interval.n_seeds == (3, 2)


def test_the_variance_of_several_runs_stands_for_that_of_a_single_one():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.0, 1.0, (3, 40)), rng.normal(0.0, 1.0, 40)
    interval, mirrored = paired_interval(first, second), paired_interval(second, first)
    over_data = (first.mean(0) - second).var(ddof=1) / 40
    assert interval.se == pytest.approx(math.sqrt(first.mean(1).var(ddof=1) * (1 / 3 + 1) + over_data))
    assert (mirrored.mean, mirrored.se) == pytest.approx((-interval.mean, interval.se))


def test_equal_runs_do_not_differ():
    interval = paired_interval(np.ones(5), np.ones(5))
    assert (interval.mean, interval.se, interval.low, interval.high, interval.p_value) == (0.0, 0.0, 0.0, 0.0, 1.0)
    assert paired_interval(np.ones(5), np.zeros(5)).p_value == 0.0


def test_mcnemar_is_the_binomial_test_of_the_disagreeing_data():
    first = np.array([True] * 12 + [False] * 4 + [True] * 20)
    second = np.array([False] * 12 + [True] * 4 + [True] * 20)
    test = mcnemar_test(first, second)
    assert (test.only_first, test.only_second, test.n_data) == (12, 4, 36)
    assert test.p_value == pytest.approx(2 * stats.binom.sf(11, 16, 0.5))
    assert mcnemar_test(first, first).p_value == 1.0


def test_values_that_are_no_figures_are_refused():
    with pytest.raises(ValueError, match="Expected finite values, at least one; got 0"):
        mean_interval([])
    with pytest.raises(ValueError, match="Expected finite values"):
        mean_interval([1.0, math.inf])
    with pytest.raises(ValueError, match="Expected a level between 0 and 1; got 90"):
        mean_interval([1.0], 90)
    with pytest.raises(ValueError, match=r"Expected values of the same data.*\(1, 3\) and \(1, 4\)"):
        paired_interval(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="Expected finite values; got NaN or infinity"):
        paired_interval([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="Expected two vectors of the same data"):
        mcnemar_test([True], [True, False])


def test_intervals_cover_what_they_claim():
    """A short version of the proof `intervals_cover`."""
    figures = check(40, seed=5)
    assert figures["passed"], figures
