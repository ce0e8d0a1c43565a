from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from latentmix.inference.diagnostics.ranks import EcdfBand, rank_statistics, thin


def uniform_ranks(sets: int, n: int, n_draws: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_draws + 1, (sets, n))


def beta_ranks(n: int, n_draws: int, a: float, b: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.binomial(n_draws, generator.beta(a, b, n))


def test_ranks_count_the_draws_below_the_truth() -> None:
    truth = np.array([[0.5, -1.0], [3.0, 2.5]])
    draws = np.arange(4.0)[:, None, None].repeat(2, 1).repeat(2, 2) + 0.25
    assert rank_statistics(truth, draws).tolist() == [[1, 0], [3, 3]]


def test_ties_are_broken_uniformly() -> None:
    ranks = rank_statistics(np.ones(5000), np.concatenate([np.zeros((1, 5000)), np.ones((3, 5000))]), 1)
    counts = np.bincount(ranks, minlength=5)
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 1e-4  # the rate of false alarms


@pytest.mark.parametrize(
    ("truth", "draws", "message"),
    [
        (1.0, [[1.0]], r"draws of shape \(L, \*\(\)\) with L >= 1; got \(1, 1\)"),
        (1.0, [], r"with L >= 1; got \(0,\)"),
        (1.0, [np.nan, 1.0], "values that have an order; got NaN"),
    ],
)
def test_ranks_refuse_what_has_none(truth: float, draws: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_statistics(truth, draws)


def test_thinned_draws_are_evenly_spaced_over_the_chains() -> None:
    assert thin(np.arange(1000.0).reshape(4, 250), 10).tolist() == [111.0 * k for k in range(10)]
    assert thin(np.arange(7.0), 7).tolist() == list(range(7))
    with pytest.raises(ValueError, match="Expected at least 8 draws; got 7: draw more, or thin to fewer"):
        thin(np.arange(7.0), 8)


@pytest.mark.parametrize(("n", "n_draws"), [(5, 3), (3, 6), (6, 2)])
@pytest.mark.parametrize("false_alarm", [0.02, 0.2, 0.6])
def test_coverage_is_that_of_every_outcome_counted(n: int, n_draws: int, false_alarm: float) -> None:
    band = EcdfBand.at(n, n_draws, false_alarm)
    outcomes = [np.array(outcome) for outcome in product(range(n_draws + 1), repeat=n)]
    inside = np.array([band.contains(outcome) for outcome in outcomes])
    assert inside.mean() == pytest.approx(band.coverage, abs=1e-12)
    assert band.coverage >= 1 - false_alarm
    # p-values by the definition: how many outcomes have a least likely point as unlikely
    points = np.arange(1, n_draws + 1) / (n_draws + 1)
    worst = np.array([_tails(np.array([(o <= i).sum() for i in range(n_draws)]), n, points).min() for o in outcomes])
    expected = np.array([(worst <= tail * (1 + 1e-9)).mean() for tail in worst])
    assert np.allclose([band.p_value(outcome) for outcome in outcomes], expected, atol=1e-12)
    assert np.array_equal(inside, expected > false_alarm + 1e-12)  # the narrowest band of that level


def _tails(counts: np.ndarray, n: int, points: np.ndarray) -> np.ndarray:
    return 2 * np.minimum(binom.cdf(counts, n, points), binom.sf(counts - 1, n, points))


@pytest.mark.parametrize(("n", "n_draws"), [(100, 19), (200, 99)])
def test_false_alarms_come_at_the_stated_rate(n: int, n_draws: int) -> None:
    band = EcdfBand.at(n, n_draws, 0.01)
    alarms = sum(not band.contains(ranks) for ranks in uniform_ranks(10_000, n, n_draws))
    assert 0.0095 < 1 - band.coverage <= 0.01
    # an interval of the binomial of 10,000 at the exact rate that is left with probability 1e-4
    low, high = binom.interval(1 - 1e-4, 10_000, 1 - band.coverage)
    assert low <= alarms <= high


@pytest.mark.parametrize(
    ("name", "a", "b"), [("low", 1.0, 1.6), ("high", 1.6, 1.0), ("too narrow", 0.5, 0.5), ("too wide", 2.0, 2.0)]
)
def test_ranks_that_are_not_uniform_are_flagged(name: str, a: float, b: float) -> None:
    band = EcdfBand.at(200, 99, 0.01)
    flagged = [not band.contains(beta_ranks(200, 99, a, b, seed)) for seed in range(20)]
    assert np.mean(flagged) >= 0.8, name
    assert not all(not band.contains(beta_ranks(200, 99, 1.0, 1.0, seed)) for seed in range(20))


def test_p_values_belong_to_the_band() -> None:
    sets = [*uniform_ranks(100, 60, 19), *(beta_ranks(60, 19, 1.0, 1.6, seed) for seed in range(50))]
    band = EcdfBand.at(60, 19, 0.05)
    values = np.array([band.p_value(ranks) for ranks in sets])
    assert np.array_equal(values > 0.05, [band.contains(ranks) for ranks in sets])
    assert 0 < (values <= 0.05).sum() < 100


def test_a_few_ranks_cannot_leave_a_wide_band() -> None:
    band = EcdfBand.at(2, 3, 0.001)
    assert band.coverage == pytest.approx(1.0)
    assert band.contains([0, 0])


def test_bands_refuse_other_numbers() -> None:
    with pytest.raises(ValueError, match="at least one rank among at least one draw; got 0 among 9"):
        EcdfBand.at(0, 9, 0.01)
    with pytest.raises(ValueError, match="false_alarm between 0 and 1; got 1"):
        EcdfBand.at(9, 9, 1)
    band = EcdfBand.at(3, 9, 0.01)
    for bad in ([0, 1], [0, 1, 10], [-1, 0, 1], [0.5, 1.0, 2.0]):
        with pytest.raises(ValueError, match=r"Expected 3 integers in 0\.\.9; got"):
            band.contains(bad)
