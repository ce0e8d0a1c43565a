"""Ranks of a truth among draws, and simultaneous bands of the ECDF of uniform ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, poisson

from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["EcdfBand", "Ranks", "rank_statistics", "thin"]

Array = NDArray[np.float64]
Ranks = NDArray[np.int64]


def rank_statistics(truth: ArrayLike, draws: ArrayLike, random_state: int | np.random.Generator = 0) -> Ranks:
    """Number of draws below the truth, ties broken at random.

    It is uniform on `0..L` if truth and draws have the same distribution.

    Args:
        truth: An array of any shape.
        draws: `L` draws of it, `(L, *truth.shape)`.
        random_state: Seed or generator of the choice among ties.

    Returns:
        Ranks of the truth's shape (Talts et al., *Validating Bayesian inference algorithms with simulation-based
        calibration*, 2018, theorem 1).

    Raises:
        ValueError: If the shapes do not fit, there is no draw, or a value is NaN.

    Example:
        >>> from latentmix.inference.diagnostics.ranks import rank_statistics
        >>> rank_statistics([0.5, -9.0], [[0.1, 1.0], [0.2, 2.0], [0.7, 3.0]])
        array([2, 0])
    """
    known, drawn = np.asarray(truth, float), np.asarray(draws, float)
    if drawn.shape[1:] != known.shape or not len(drawn):
        raise ValueError(f"Expected draws of shape (L, *{known.shape}) with L >= 1; got {drawn.shape}.")
    if np.isnan(known).any() or np.isnan(drawn).any():
        raise ValueError("Expected values that have an order; got NaN.")
    ties = (drawn == known).sum(0)
    return np.asarray((drawn < known).sum(0) + np.random.default_rng(random_state).integers(0, ties + 1))


def thin(draws: ArrayLike, n_draws: int) -> Array:
    """Take evenly spaced draws of one quantity.

    Args:
        draws: `(draw,)` or `(chain, draw)`.
        n_draws: Number of draws to keep.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> from latentmix.inference.diagnostics.ranks import thin
        >>> thin([[0, 1, 2, 3], [4, 5, 6, 7]], 3)
        array([0., 4., 7.])
    """
    flat = np.asarray(draws, float).reshape(-1)
    if not 1 <= n_draws <= len(flat):
        raise ValueError(
            f"Expected at least {plural(max(n_draws, 1), 'draw')}; got {len(flat)}: draw more, or thin to fewer."
        )
    return flat[np.round(np.linspace(0, len(flat) - 1, n_draws)).astype(int)]


@dataclass(frozen=True, repr=False)
class EcdfBand(Displayed):
    r"""A simultaneous band of the ECDF of `n` independent ranks that are uniform on :math:`0, \dots, L`.

    Below each rank :math:`i` lie :math:`C_i \sim \mathrm{Binomial}(n, i / (L + 1))` ranks; the band holds the counts
    of which both tails exceed :math:`\gamma / 2`. The probability that all :math:`C_1, \dots, C_L` stay inside is
    computed exactly: the counts per rank are independent Poisson variables given their sum, so that one convolution
    per rank propagates the paths that stay inside. :math:`\gamma` is the greatest level at which the probability of
    leaving the band is at most `false_alarm`
    (Säilynoja, Bürkner and Vehtari, *Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison*, 2022, section 2.2).

    Attributes:
        n: Number of ranks.
        n_draws: `L`, the number of draws that the truth was ranked among.
        false_alarm: The requested probability of leaving the band.
        gamma: The level of each point's interval.
        coverage: Probability that uniform ranks stay inside, at least `1 - false_alarm`.
        lower: Least count inside, `(L,)`.
        upper: Greatest count inside, `(L,)`.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.diagnostics.ranks import EcdfBand
        >>> band = EcdfBand.at(200, 99, 0.01)
        >>> band.contains(np.arange(200) % 100), band.contains(np.arange(200) % 60)
        (True, False)
    """

    n: int
    n_draws: int
    false_alarm: float
    gamma: float
    coverage: float
    lower: Ranks
    upper: Ranks

    @classmethod
    def at(cls, n: int, n_draws: int, false_alarm: float) -> Self:
        """The band of `n` ranks among `n_draws` draws.

        Raises:
            ValueError: If a number is below one, or the level not between 0 and 1.
        """
        if n < 1 or n_draws < 1:
            raise ValueError(f"Expected at least one rank among at least one draw; got {n} among {n_draws}.")
        if not 0 < false_alarm < 1:
            raise ValueError(f"Expected a false_alarm between 0 and 1; got {false_alarm}.")
        tails = _tails(n, n_draws)
        levels = np.concatenate([[0.0], np.unique(tails)])
        low, high = 0, len(levels) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if 1 - _stays(tails > levels[middle]) <= false_alarm:
                low = middle
            else:
                high = middle
        inside = tails > levels[low]
        lower, upper = inside.argmax(1), n - inside[:, ::-1].argmax(1)
        return cls(n, n_draws, false_alarm, float(levels[low]), _stays(inside), lower, upper)

    def counts(self, ranks: ArrayLike) -> Ranks:
        """Numbers of ranks below `1, ..., L`: `(L,)`.

        Raises:
            ValueError: If the ranks are not `n` integers in `0..L`.
        """
        given = np.asarray(ranks)
        if given.shape != (self.n,) or given.dtype.kind not in "iu" or given.min() < 0 or given.max() > self.n_draws:
            raise ValueError(f"Expected {self.n} integers in 0..{self.n_draws}; got {given.shape} of {given.dtype}.")
        return np.bincount(given, minlength=self.n_draws + 1).cumsum()[:-1]

    def contains(self, ranks: ArrayLike) -> bool:
        """Whether the ECDF of the ranks stays inside."""
        counts = self.counts(ranks)
        return bool(((counts >= self.lower) & (counts <= self.upper)).all())

    def p_value(self, ranks: ArrayLike) -> float:
        """Probability that the ECDF of uniform ranks has a point at least as unlikely as the worst of this one."""
        tails = _tails(self.n, self.n_draws)
        worst = tails[np.arange(self.n_draws), self.counts(ranks)].min()
        return max(0.0, 1 - _stays(tails > worst))


def _tails(n: int, n_draws: int) -> Array:
    below = binom.cdf(np.arange(n + 1), n, np.arange(1, n_draws + 1)[:, None] / (n_draws + 1))
    return np.asarray(2 * np.minimum(below, below[::-1, ::-1]))  # mirrored, so that equal tails are equal to the bit


def _stays(inside: NDArray[np.bool_]) -> float:
    n_draws, n = inside.shape[0], inside.shape[1] - 1
    rate = n / (n_draws + 1)
    step = poisson.pmf(np.arange(n + 1), rate)
    step = step[: np.flatnonzero(step > 1e-25)[-1] + 1]
    paths = np.zeros(n + 1)
    paths[0] = 1
    for allowed in inside:
        paths = np.convolve(paths, step)[: n + 1] * allowed
    return float(np.convolve(paths, step)[n] / poisson.pmf(n, n))
