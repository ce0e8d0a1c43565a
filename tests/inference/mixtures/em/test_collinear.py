"""Columns close to collinear: fits keep the digits of the points, up to a condition of 1e15."""

import warnings
from fractions import Fraction
from math import log, pi

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference import GaussianMixture


def columns(distance: float) -> np.ndarray:
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    return np.c_[a, a + distance * b]


def maximum(x: np.ndarray) -> float:
    """Highest mean log-density of one Gaussian in two dimensions, in rational arithmetic."""
    rows = [[Fraction(float(value)) for value in row] for row in x]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    each, other = ([row[j] - means[j] for row in rows] for j in range(2))
    s = [
        sum(p * q for p, q in zip(*pair, strict=True)) / len(rows)
        for pair in ((each, each), (other, other), (each, other))
    ]
    return -(log(s[0] * s[1] - s[2] ** 2) + 2 + 2 * log(2 * pi)) / 2


def fitted(x: np.ndarray, n_components: int = 1, **options: object) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return GaussianMixture(n_components, random_state=0, **options).fit(x)


@pytest.mark.parametrize("inference", ["em", "svi"])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("distance", [1e-6, 1e-7, 6.5e-8])  # conditions of 4e12, 4e14 and 9e14
@pytest.mark.parametrize(("scale", "offset", "reg_covar"), [(1.0, 0.0, 0.0), (1e6, 1e6, 1e-6), (1.0, 100.0, 0.0)])
def test_the_likelihood_is_the_exact_maximum(inference, covariance_type, distance, scale, offset, reg_covar):
    x = columns(distance) * scale + offset
    mixture = fitted(x, inference=inference, covariance_type=covariance_type, reg_covar=reg_covar)
    assert mixture.score(x) == pytest.approx(maximum(x), abs=1e-6)
    assert mixture.lower_bound_ == pytest.approx(maximum(x), abs=1e-6)


@pytest.mark.parametrize("inference", ["em", "svi"])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_mixtures_are_those_of_the_columns_apart(inference, covariance_type):
    rng = np.random.default_rng(1)
    apart = np.c_[np.r_[rng.normal(-4, 1, 200), rng.normal(4, 1, 200)], rng.normal(size=(400, 2))]
    x = np.c_[apart[:, 0], apart[:, 0] + 1e-7 * apart[:, 1], 3 * apart[:, 0] + apart[:, 2]]
    options = {"inference": inference, "covariance_type": covariance_type, "reg_covar": 0.0}
    each, other = (fitted(points, 2, **options) for points in (apart, x))
    assert other.score(x) == pytest.approx(each.score(apart) - np.log(1e-7), abs=1e-6)
    drawn, _ = other.sample(4000)
    assert np.std((drawn[:, 1] - drawn[:, 0]) / 1e-7) == pytest.approx(np.std(apart[:, 1]), rel=0.06)
    assert other.aic(x) == pytest.approx(each.aic(apart) + 2 * 400 * np.log(1e-7), abs=1e-3)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_precisions_close_to_singular_are_taken(covariance_type):
    x = columns(1e-7)
    first = fitted(x, covariance_type=covariance_type, reg_covar=0.0)
    again = fitted(x, covariance_type=covariance_type, reg_covar=0.0, precisions_init=first.precisions_)
    assert again.score(x) == pytest.approx(maximum(x), abs=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("distance", [1e-8, 0.0])
def test_beyond_them_a_warning_is_given(covariance_type, distance):
    x = columns(distance)
    with pytest.warns(ConvergenceWarning, match="Singular covariances got a jitter"):
        mixture = GaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0).fit(x)
    assert np.isfinite(mixture.score(x))
