"""Gibbs draws against conjugate posteriors in closed form, and leave-one-out densities against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_t

from latentmix.inference.mixtures.analysis.gibbs import GibbsDraws, gibbs
from latentmix.inference.mixtures.analysis.psis import leave_one_out
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES

KAPPA = 0.01
EVERY_TYPE = tuple(dict.fromkeys((*TYPES, "tied_diag")))


def ellipse(n: int = 60) -> NDArray[np.float64]:
    return np.random.RandomState(0).randn(n, 2) @ np.array([[1.0, 0.3], [0.0, 2.0]]) + [5.0, -100.0]


def draws_of(x: NDArray[np.float64], covariance_type: str, n_components: int = 1, **options: int) -> GibbsDraws:
    return gibbs(torch.from_numpy(x), fit_of(x, covariance_type, n_components), **options)


def fit_of(x: NDArray[np.float64], covariance_type: str, n_components: int = 1) -> MixtureParameters:
    """A fit; of shared variances those within the components of a diagonal fit."""
    shared = covariance_type == "tied_diag"
    fitted = GaussianMixture(n_components, covariance_type="diag" if shared else covariance_type, random_state=0).fit(x)
    if not shared:
        return fitted.parameters_
    weights, means, variances = (
        torch.from_numpy(getattr(fitted, f"{n}_")) for n in ("weights", "means", "covariances")
    )
    return MixtureParameters(weights, means, weights @ variances, covariance_structure("tied_diag"))


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_one_component_has_the_conjugate_posterior(covariance_type: str) -> None:
    # Draws are independent for K = 1: of 4,000 a mean is off by more than 5 standard errors once in 1.7e6.
    x = ellipse()
    drawn = draws_of(x, covariance_type, draws=1000, warmup=1)
    n, size = x.shape
    held, spread = KAPPA + n, np.cov(x.T)
    ours = n * np.cov(x.T, bias=True)  # the prior mean is that of the data
    if covariance_type in ("full", "tied"):
        expected = (spread + ours) / (size + 2 + n - size - 1)
    elif covariance_type in ("diag", "tied_diag"):
        expected = np.diag(spread + ours) / (3 + n - 2)
    else:
        expected = (np.trace(spread) / size + np.trace(ours)) / (3 + n * size - 2)
    covariances = drawn.covariances.flatten(0, 1).numpy()
    error = covariances.std(0) / np.sqrt(len(covariances))
    np.testing.assert_array_less(np.abs(covariances.mean(0) - expected) / error, 5.0)
    means = drawn.means.flatten(0, 1)[:, 0].numpy()
    np.testing.assert_array_less(np.abs(means.mean(0) - x.mean(0)) / (means.std(0) / np.sqrt(4000)), 5.0)
    full = covariance_structure(covariance_type).expand(
        torch.as_tensor(expected).reshape(covariance_structure(covariance_type).covariance_shape(1, size)), 1, size
    )[0]
    np.testing.assert_allclose(np.cov(means.T), full / held, atol=0.15 * float(full.max()) / held)
    assert bool((drawn.weights == 1).all())


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_log_likelihoods_are_those_of_the_draws(covariance_type: str) -> None:
    x = np.concatenate([ellipse(40), ellipse(30) * [2.0, 1.0] + 3.0])
    drawn = draws_of(x, covariance_type, 3, draws=3, warmup=2, chains=2)
    for chain in range(2):
        for draw in range(3):
            parameters = MixtureParameters(
                drawn.weights[chain, draw],
                drawn.means[chain, draw],
                drawn.covariances[chain, draw],
                covariance_structure(covariance_type),
            )
            expected = parameters.log_likelihood(torch.from_numpy(x))
            np.testing.assert_allclose(drawn.log_likelihood[:, chain, draw], expected, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["tied", "tied_diag"])
def test_a_shared_covariance_has_the_conjugate_posterior_of_all_components(covariance_type: str) -> None:
    # The components are far apart, so that draws are independent: 5 standard errors, as above.
    groups = [ellipse(40), ellipse(30) + 500.0]
    x = np.concatenate(groups)
    drawn = draws_of(x, covariance_type, 2, draws=1000, warmup=2)
    spread = np.cov(x.T) / 2  # the prior's scale: the covariance of the data over K^(2 / D)
    for group in groups:
        shift = group.mean(0) - x.mean(0)
        spread = spread + len(group) * np.cov(group.T, bias=True)
        spread = spread + KAPPA * len(group) / (KAPPA + len(group)) * np.outer(shift, shift)
    expected = (spread if covariance_type == "tied" else np.diag(spread)) / (len(x) + 1)
    covariances = drawn.covariances.flatten(0, 1).numpy()
    error = covariances.std(0) / np.sqrt(len(covariances))
    np.testing.assert_array_less(np.abs(covariances.mean(0) - expected) / error, 5.0)


def test_draws_are_as_wide_as_the_likelihood_says() -> None:
    # Two groups far apart, 2,000 points: the posterior is that of two separate Gaussians and a Beta law.
    # 2,000 draws of little autocorrelation: a standard deviation to 1.6%, a mean to 2.2% of it: limits of 6 of these.
    state = np.random.RandomState(0)
    x = np.concatenate([state.randn(800, 1) - 10, 2 * state.randn(1200, 1) + 10])
    drawn = draws_of(x, "full", 2, draws=500)
    order = drawn.means[0, 0, :, 0].argsort()
    weights = drawn.weights[..., order].flatten(0, 1)[:, 0]
    assert abs(float(weights.mean()) - 801 / 2002) < 0.14 * 0.011
    np.testing.assert_allclose(float(weights.std()), np.sqrt(0.4 * 0.6 / 2003), rtol=0.1)
    means = drawn.means[..., order, 0].flatten(0, 1)
    np.testing.assert_allclose(means.std(0), [1 / np.sqrt(800), 2 / np.sqrt(1200)], rtol=0.15)


def test_leave_one_out_equals_the_exact_one() -> None:
    """With one component the density of a point given the others is Student's t (Bishop, 2006, section 2.3.7)."""
    x = ellipse()
    loo = leave_one_out(draws_of(x, "full", draws=500).log_likelihood.numpy())
    prior, centre, exact = np.cov(x.T) + 1e-6 * np.diag(x.var(0)), x.mean(0), []
    for point in range(len(x)):
        others = np.delete(x, point, 0)
        n = len(others)
        held, gap, freedom = KAPPA + n, others.mean(0) - centre, n + 3
        spread = prior + n * np.cov(others.T, bias=True) + KAPPA * n / held * np.outer(gap, gap)
        middle = (KAPPA * centre + n * others.mean(0)) / held
        exact.append(multivariate_t.logpdf(x[point], middle, spread * (held + 1) / (held * freedom), freedom))
    np.testing.assert_allclose(loo.densities, exact, atol=0.06)
    assert abs(loo.mean - np.mean(exact)) < 0.002
    assert loo.n_unreliable == 0
    assert 3.0 < loo.n_effective < 6.0
    assert abs(loo.r_hat - 1) < 0.01
    assert loo.ess > 1000
    np.testing.assert_allclose(loo.standard_error, np.std(exact, ddof=1) / np.sqrt(len(x)), rtol=0.05)


def test_heavy_ratios_are_counted_as_unreliable() -> None:
    state = np.random.RandomState(0)
    values = state.normal(-1, 0.1, (5, 4, 100))
    values[2] = -1 - 8 * state.exponential(size=(4, 100))
    loo = leave_one_out(values)
    assert loo.n_unreliable == 1
    assert loo.pareto_k.argmax() == 2


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_draws_are_reproducible_and_finite_for_hard_data(covariance_type: str) -> None:
    x = np.concatenate([np.zeros((20, 3)), np.random.RandomState(0).randn(30, 3) * [1.0, 1e-6, 1e6]])
    x[:, 1] += 1e4
    start = fit_of(x, covariance_type, 2)
    first, again, other = (gibbs(torch.from_numpy(x), start, draws=5, random_state=seed) for seed in (1, 1, 2))
    assert bool(first.log_likelihood.isfinite().all())
    assert torch.equal(first.log_likelihood, again.log_likelihood)
    assert not torch.equal(first.log_likelihood, other.log_likelihood)


def test_invalid_arguments_are_refused() -> None:
    x = torch.from_numpy(ellipse())
    start = fit_em(x, GaussianMixture(1).fit(x).parameters_).parameters
    with pytest.raises(ValueError, match="Expected chains and draws >= 1"):
        gibbs(x, start, draws=0)
    with pytest.raises(ValueError, match="at least 50 draws in all; got shape"):
        leave_one_out(np.zeros((5, 2, 10)))
    with pytest.raises(ValueError, match="with infinity or NaN"):
        leave_one_out(np.full((5, 4, 100), -np.inf))
