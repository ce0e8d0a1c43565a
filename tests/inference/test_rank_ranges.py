from __future__ import annotations

import math

import numpy as np
import pytest

from latentmix.inference.rank_ranges import rank_ranges


def test_numbers_without_errors_have_one_rank_each() -> None:
    values = np.random.default_rng(0).permutation(20).astype(float)
    ranks = 20 - values.argsort().argsort()
    assert rank_ranges([(value, value) for value in values]) == [(rank, rank) for rank in ranks]


def test_overlapping_intervals_share_ranks_and_touching_ones_overlap() -> None:
    assert rank_ranges([(0.0, 1.0), (1.0, 2.0), (3.0, 4.0)]) == [(2, 3), (2, 3), (1, 1)]
    # a chain: the first and the last are apart, the middle overlaps with both
    assert rank_ranges([(0.0, 1.0), (0.5, 2.5), (2.0, 3.0)]) == [(2, 3), (1, 3), (1, 2)]


def test_an_estimate_of_which_nothing_is_known_may_have_any_rank() -> None:
    unknown = (-math.inf, math.inf)
    assert rank_ranges([(0.0, 1.0), unknown, (3.0, 4.0)]) == [(2, 3), (1, 3), (1, 2)]
    assert rank_ranges([]) == []


def test_ranges_hold_the_true_ranks_wherever_intervals_hold_the_true_values() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        truth = random.normal(size=8)
        ranks = 8 - truth.argsort().argsort()
        below, above = random.exponential(0.5, size=(2, 8))
        ranges = rank_ranges(list(zip(truth - below, truth + above, strict=True)))
        assert all(best <= rank <= worst for rank, (best, worst) in zip(ranks, ranges, strict=True))


@pytest.mark.parametrize("interval", [(1.0, 0.0), (math.nan, 1.0)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="from a lower to an upper end; got"):
        rank_ranges([(0.0, 1.0), interval])
