"""The posterior predictive of Bayesian mixtures: against draws, scipy's Student-t distributions, and its integral."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import multivariate_t, t, wishart
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture

from tests.inference.mixtures.clouds import TYPES, synthetic

PRIORS = ("dirichlet_process", "dirichlet_distribution")


def fitted(x, covariance_type="full", **options) -> BayesianGaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return BayesianGaussianMixture(
            **{"n_components": 3, "covariance_type": covariance_type, "random_state": 0} | options
        ).fit(x)


def degrees_of(mixture) -> np.ndarray:
    return np.broadcast_to(mixture.degrees_of_freedom_, len(mixture.means_))


def by_scipy(mixture, x) -> np.ndarray:
    """The density by scipy's distributions, observed entries alone."""
    size, total = x.shape[1], 0.0
    for k, (weight, mean) in enumerate(zip(mixture.weights_, mixture.means_, strict=True)):
        nu, wide = degrees_of(mixture)[k], 1 + 1 / mixture.mean_precision_[k]
        seen = ~np.isnan(x[0])
        match mixture.covariance_type:
            case "diag":
                scales = np.sqrt(wide * mixture.covariances_[k])
                density = np.prod(t.pdf(x[:, seen], nu, mean[seen], scales[seen]), axis=1)
            case "spherical":
                shape = wide * mixture.covariances_[k] * np.eye(size)[np.ix_(seen, seen)]
                density = multivariate_t(mean[seen], shape, size * nu).pdf(x[:, seen])
            case kind:
                whole = mixture.covariances_ if kind == "tied" else mixture.covariances_[k]
                nu = nu * len(mixture.means_) if kind == "tied" else nu
                shape = wide * nu / (nu + 1 - size) * whole[np.ix_(seen, seen)]
                density = multivariate_t(mean[seen], shape, nu + 1 - size).pdf(x[:, seen])
        total += weight * density
    return total


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictive_density_integrates_to_one(covariance_type, weight_prior) -> None:
    x = synthetic(40, n_components=2)[:, :1]
    mixture = fitted(x, covariance_type, weight_concentration_prior_type=weight_prior)

    # The midpoint rule on the line by x = tan(u): heavy tails end at finite bounds.
    u = (np.arange(40_000) + 0.5) / 40_000 * np.pi - np.pi / 2

    def integral(log_density) -> float:
        return float(np.sum(np.exp(log_density(np.tan(u)[:, None])) / np.cos(u) ** 2) * np.pi / len(u))

    assert integral(mixture.predictive_log_density) == pytest.approx(1, abs=1e-6)
    assert integral(mixture.score_samples) < 0.99  # as its docstring says


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictive_density_integrates_to_one_in_two_dimensions(covariance_type) -> None:
    mixture = fitted(synthetic(60, n_components=3)[:, :2], covariance_type)
    # Importance sampling from Cauchy distributions about the points, which have no lighter tails.
    state = np.random.RandomState(0)
    centre, width = mixture.means_.mean(0), 4.0
    proposal = multivariate_t(centre, width**2 * np.eye(2), 1.0, seed=state)
    y = proposal.rvs(200_000)
    ratio = np.exp(mixture.predictive_log_density(y) - proposal.logpdf(y))
    # Five standard errors: a false alarm in two millions.
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(y)) < 0.05


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictive_density_is_the_mean_over_posterior_draws(covariance_type) -> None:
    mixture = fitted(synthetic(40, n_components=2)[:, :2], covariance_type, n_components=2)
    state, draws, y = np.random.RandomState(0), 20_000, synthetic(40, n_components=2)[:5, :2]
    nu, own = degrees_of(mixture), mixture.covariances_
    total = np.zeros((draws, len(y)))
    for k in range(2):
        match covariance_type:
            case "full":
                precision = wishart(nu[k], np.linalg.inv(own[k]) / nu[k], seed=state).rvs(draws)
            case "tied":
                precision = wishart(2 * nu[0], np.linalg.inv(own) / (2 * nu[0]), seed=state).rvs(draws)
            case "diag":
                precision = state.gamma(nu[k] / 2, 2 / (nu[k] * own[k]), (draws, 2))[:, :, None] * np.eye(2)
            case "spherical":
                precision = state.gamma(nu[k], 1 / (nu[k] * own[k]), (draws, 1, 1)) * np.eye(2)
        factor = np.linalg.cholesky(np.linalg.inv(precision))
        noise = state.standard_normal((draws, 2, 1)) / np.sqrt(mixture.mean_precision_[k])
        deviations = y - mixture.means_[k] - (factor @ noise)[:, None, :, 0]
        squares = np.einsum("snd,sde,sne->sn", deviations, precision, deviations)
        density = np.exp(-squares / 2) * np.sqrt(np.linalg.det(precision))[:, None] / (2 * np.pi)
        total += mixture.weights_[k] * density
    error = total.std(0) / np.sqrt(draws)
    assert np.all(np.abs(np.exp(mixture.predictive_log_density(y)) - total.mean(0)) < 5 * error)


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictive_density_matches_scipy_student_t(covariance_type, weight_prior) -> None:
    x = synthetic(60, n_components=3)
    mixture = fitted(x, covariance_type, weight_concentration_prior_type=weight_prior, missing="marginalize")
    y = synthetic(20, seed=1)
    np.testing.assert_allclose(np.exp(mixture.predictive_log_density(y)), by_scipy(mixture, y), rtol=1e-9)
    far = mixture.predictive_log_density(y * 1e2)
    np.testing.assert_allclose(far, np.log(by_scipy(mixture, y * 1e2)), rtol=1e-9)
    for gone in ([0], [2], [0, 1]):
        holes = y.copy()
        holes[:, gone] = np.nan
        np.testing.assert_allclose(np.exp(mixture.predictive_log_density(holes)), by_scipy(mixture, holes), rtol=1e-9)
    mixed = y.copy()
    mixed[::2, 1] = np.nan
    mixed[3] = np.nan
    log_density = mixture.predictive_log_density(mixed)
    np.testing.assert_allclose(np.exp(log_density[::2]), by_scipy(mixture, mixed[::2]), rtol=1e-9)
    assert log_density[3] == pytest.approx(0, abs=1e-12)


def test_predictive_density_exceeds_the_expected_log_mixture() -> None:
    x = synthetic(50, n_components=2)
    mixture = fitted(x)
    log_density = mixture.predictive_log_density(x)
    assert np.all(log_density > mixture.score_samples(x))
    np.testing.assert_array_equal(mixture.predictive_log_density(torch.from_numpy(x)).numpy(), log_density)
    again = fitted(pandas.DataFrame(x)).predictive_log_density(pandas.DataFrame(x))
    np.testing.assert_allclose(again, log_density, rtol=1e-12)  # columns are summed in another order
    single = mixture.predictive_log_density(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, log_density, rtol=1e-4)
    np.testing.assert_allclose(mixture.predictive_log_density(x[:1]), log_density[:1])
    with pytest.raises(ValueError, match="NaN"):
        mixture.predictive_log_density(np.full((1, 3), np.nan))
