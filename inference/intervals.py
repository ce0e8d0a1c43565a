"""Intervals of means over seeds, of paired differences over seeds and test data, and McNemar's exact test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, t

from latentmix.models.display import Displayed

__all__ = ["McNemarTest", "MeanInterval", "PairedInterval", "mcnemar_test", "mean_interval", "paired_interval"]

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class MeanInterval(Displayed):
    """The mean of a figure over runs, with Student's t interval.

    Attributes:
        mean: The mean.
        n: Number of values.
        sd: Their standard deviation, with `n - 1` in the denominator; NaN for one value.
        low: Lower end of the interval of the expectation; NaN for one value.
        high: Upper end; NaN for one value.
        level: The level of the interval.
    """

    mean: float
    n: int
    sd: float
    low: float
    high: float
    level: float

    @property
    def bounded(self) -> bool:
        """Whether there is an interval: of two values or more."""
        return self.n > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `mean`, `n`, and of two values or more `sd`, `low` and `high`."""
        ends = {"sd": self.sd, "low": self.low, "high": self.high} if self.bounded else {}
        return {"mean": self.mean, "n": self.n, **ends}


def mean_interval(values: ArrayLike, level: float = 0.9) -> MeanInterval:
    r"""Student's t interval of an expectation, :math:`\bar x \pm t_{n-1} s / \sqrt n`, of independent values.

    It holds its level exactly for normal values, and nearly so for figures that are means over many data (Student,
    *The probable error of a mean*, 1908).

    Args:
        values: `n` values, such as a figure of `n` seeds.
        level: Probability with which the interval covers the expectation.

    Raises:
        ValueError: If there is no value, one is not finite, or the level is not between 0 and 1.

    Example:
        >>> from latentmix.inference import mean_interval
        >>> interval = mean_interval([1.0, 2.0, 3.0], level=0.9)
        >>> round(interval.low, 3), interval.mean, round(interval.high, 3)
        (0.314, 2.0, 3.686)
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    _check_level(level)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"Expected finite values, at least one; got {len(x)}{' with others' if len(x) else ''}.")
    mean = float(x.mean())
    if len(x) == 1:
        return MeanInterval(mean, 1, math.nan, math.nan, math.nan, level)
    sd = float(x.std(ddof=1))
    half = _quantile(level, len(x) - 1) * sd / math.sqrt(len(x))
    return MeanInterval(mean, len(x), sd, mean - half, mean + half, level)


@dataclass(frozen=True, repr=False)
class PairedInterval(Displayed):
    """The mean difference of a figure between two groups of runs on the same data, with its standard error.

    Attributes:
        mean: Mean of the first less that of the second.
        se: Standard error.
        low: Lower end of the interval.
        high: Upper end.
        df: Degrees of freedom, by Satterthwaite.
        p_value: Two-sided p-value of no difference, of Student's t.
        level: The level of the interval.
        n_data: Number of data.
        n_seeds: Runs of the first group and of the second.
        sd_data: Standard deviation over the data of the difference of the groups' means.
        sd_seeds: Standard deviations over runs of the means over the data, first and second group; NaN of one run.
    """

    mean: float
    se: float
    low: float
    high: float
    df: float
    p_value: float
    level: float
    n_data: int
    n_seeds: tuple[int, int]
    sd_data: float
    sd_seeds: tuple[float, float]

    @property
    def over_seeds(self) -> bool:
        """Whether the interval is that of new runs and data; else it is that of these two runs on new data."""
        return max(self.n_seeds) > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "mean": self.mean,
            "se": self.se,
            "low": self.low,
            "high": self.high,
            "df": self.df,
            "p_value": self.p_value,
            "data": self.n_data,
            "seeds": list(self.n_seeds),
            "over_seeds": self.over_seeds,
        }


def paired_interval(first: ArrayLike, second: ArrayLike, level: float = 0.9) -> PairedInterval:
    r"""Interval of the difference of two groups of runs in a figure of the same data, over seeds and data at once.

    Of runs :math:`s` and data :math:`i` with values :math:`a_{si}` and :math:`b_{si}`, the variance of
    :math:`\bar a - \bar b` is estimated as

    .. math:: \frac{V_a}{S_a} + \frac{V_b}{S_b} + \frac{V_d}{N},

    with :math:`V_a, V_b` the variances over runs of a run's mean over the data, and :math:`V_d` that over the data of
    :math:`\bar a_{\cdot i} - \bar b_{\cdot i}`, the difference averaged over runs; the interval is Student's t with
    Satterthwaite's degrees of freedom (*An approximate distribution of estimates of variance components*, 1946). Runs
    and data are crossed random effects, and the ratio of the squared difference to this variance is min F' (Clark,
    *The language-as-fixed-effect fallacy*, 1973): it counts the interaction of runs and data twice, so that it errs,
    slightly, on the side of wide intervals, and unlike the unbiased estimate it cannot be negative. To leave out
    either source gives intervals that are too narrow for what a comparison of configurations claims (Bouthillier et
    al., *Accounting for variance in machine learning benchmarks*, 2021).

    With very few runs, of which one group's hardly vary, the approximation covers less than it claims: at a level of
    90%, at worst 83% with two runs in each group, 88% with three and 89% with five (of simulated variances). Take three
    or more.

    Of one run in each group there is no variance over seeds: the interval is then that of these two runs on new data,
    :math:`V_d / N` alone. Where one group alone has several runs, their variance stands for that of the other, too.
    Runs of the two groups are taken as independent; seeds in common do no harm.

    Args:
        first: `S_a x N` values: runs by row, or `N` values of one run.
        second: `S_b x N` values, likewise, of the same data in the same order.
        level: Probability with which the interval covers the difference of the expectations.

    Raises:
        ValueError: If the numbers of data differ or are below 2, a value is not finite, or the level is not between 0
            and 1.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference import paired_interval
        >>> data = np.linspace(0.0, 1.0, 100)
        >>> difference = paired_interval([data + 1.0, data + 1.1], [data, data - 0.1])
        >>> round(difference.mean, 3), round(difference.se, 3), difference.n_seeds
        (1.1, 0.071, (2, 2))
    """
    a, b = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (first, second))
    _check_level(level)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2 or not len(a) or not len(b):
        raise ValueError(f"Expected values of the same data, two or more, by run; got shapes {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("Expected finite values; got NaN or infinity.")
    differences = a.mean(0) - b.mean(0)
    n = len(differences)
    sizes = (len(a), len(b))
    variances = [float(runs.mean(1).var(ddof=1)) if len(runs) > 1 else math.nan for runs in (a, b)]
    parts: list[tuple[float, float]] = [(float(differences.var(ddof=1)) / n, n - 1)]  # variance, degrees of freedom
    if min(sizes) > 1:
        parts += [(variance / size, size - 1) for variance, size in zip(variances, sizes, strict=True)]
    elif max(sizes) > 1:
        known = variances[0] if sizes[0] > 1 else variances[1]
        parts.append((known * (1 / sizes[0] + 1 / sizes[1]), max(sizes) - 1))
    variance = sum(part for part, _ in parts)
    mean, se = float(differences.mean()), math.sqrt(variance)
    df = variance**2 / sum(part**2 / free for part, free in parts) if variance > 0 else float(n - 1)
    half = _quantile(level, df) * se
    p_value = float(2 * t.sf(abs(mean) / se, df)) if se > 0 else float(mean == 0)
    sds = (math.sqrt(variances[0]), math.sqrt(variances[1]))
    sd_data = math.sqrt(parts[0][0] * n)
    return PairedInterval(mean, se, mean - half, mean + half, df, p_value, level, n, sizes, sd_data, sds)


@dataclass(frozen=True)
class McNemarTest:
    """McNemar's exact test of two classifiers on the same data.

    Attributes:
        only_first: Data that the first alone classifies rightly.
        only_second: Data that the second alone classifies rightly.
        p_value: Two-sided p-value of equal accuracies.
        n_data: Number of data.
    """

    only_first: int
    only_second: int
    p_value: float
    n_data: int


def mcnemar_test(first: ArrayLike, second: ArrayLike) -> McNemarTest:
    """Test whether two classifiers have the same accuracy, by the data on which one of them alone is right.

    Given their number, those of the first are binomial with probability 1/2 if accuracies are equal (McNemar, *Note on
    the sampling error of the difference between correlated proportions*, 1947; the exact form, not the chi-squared
    one). It is a test of two fitted classifiers on new data: of several seeds it takes the variance of training for
    none, and `paired_interval` of the `correct` values is the test.

    Args:
        first: N booleans: whether the first classifies a datum rightly.
        second: N booleans of the second, of the same data in the same order.

    Raises:
        ValueError: If the numbers of data differ, or there are none.

    Example:
        >>> from latentmix.inference import mcnemar_test
        >>> mcnemar_test([True] * 9 + [False], [False] * 8 + [True, True]).p_value
        0.0390625
    """
    a, b = (np.asarray(values, dtype=bool) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"Expected two vectors of the same data; got shapes {a.shape} and {b.shape}.")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    disagreeing = only_first + only_second
    p_value = float(binomtest(only_first, disagreeing, 0.5).pvalue) if disagreeing else 1.0
    return McNemarTest(only_first, only_second, p_value, len(a))


def _quantile(level: float, df: float) -> float:
    return float(t.ppf(0.5 + level / 2, df))


def _check_level(level: Any) -> None:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1; got {level!r:.60}.")
