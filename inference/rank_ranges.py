"""Ranks of estimates with intervals, as ranges where intervals overlap."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["rank_ranges"]


def rank_ranges(intervals: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """The ranks that each of several estimates may have, 1 for the highest, if its interval holds the true value.

    An estimate is above another only if its interval lies above that of the other. Its best rank is 1 more than the
    number of estimates above it, its worst rank that of all less those below it; estimates whose intervals overlap
    share ranks. If intervals hold their true values jointly, the ranges hold the true ranks jointly.

    Args:
        intervals: Lower and upper end of each interval, infinite where nothing is known; a number without error has
            twice the same end.

    Returns:
        The best and the worst rank of each, in the order of the intervals.

    Raises:
        ValueError: If an interval ends below its beginning, or an end is NaN.

    Example:
        >>> from latentmix.inference.rank_ranges import rank_ranges
        >>> rank_ranges([(-101.0, -99.0), (-100.0, -98.0), (-120.0, -110.0)])
        [(1, 2), (1, 2), (3, 3)]
    """
    for low, high in intervals:
        if not low <= high:
            raise ValueError(f"Expected intervals from a lower to an upper end; got {(low, high)}.")
    return [
        (1 + sum(other > high for other, _ in intervals), sum(not other < low for _, other in intervals))
        for low, high in intervals
    ]
