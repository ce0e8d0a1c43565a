"""The evidence bound against closed forms: hard assignments, sums over all assignments, and one Gaussian."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import betaln, gammaln, logsumexp, multigammaln
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.em.conjugate import ConjugatePrior
from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.m_step import maximize
from latentmix.inference.mixtures.em.missing import IncompleteEStep
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.em.variational import (
    entropy,
    evidence_lower_bound,
    fit_variational,
)
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES

WEIGHTS = ("dirichlet_process", "dirichlet_distribution")
BETA, NU, ALPHA = 0.7, 3.5, 0.4


def prior_of(covariance_type, weight_prior, n_features=2, mean_precision=BETA) -> ConjugatePrior:
    full = torch.eye(n_features, dtype=torch.float64) + 0.3
    covariance = {"diag": full.diagonal() + torch.arange(n_features), "spherical": full[0, 0]}.get(
        covariance_type, full
    )
    mean = torch.linspace(-1, 1, n_features, dtype=torch.float64)
    return ConjugatePrior(
        weight_prior, ALPHA, mean, mean_precision, NU, covariance, covariance_structure(covariance_type)
    )


def log_evidence(x, labels, n_components, prior) -> float:
    """Log of p(x, labels), every parameter integrated out."""
    counts = np.bincount(labels, minlength=n_components)
    size, mean, scale, beta = x.shape[1], prior.mean.numpy(), prior.covariance.numpy(), prior.mean_precision
    if prior.weight_prior == "dirichlet_process":
        after = counts[::-1].cumsum()[::-1] - counts
        total = np.sum((betaln(1 + counts, ALPHA + after) - betaln(1, ALPHA))[:-1])  # the last stick takes the rest
    else:
        total = gammaln(ALPHA * n_components) - gammaln(ALPHA * n_components + len(x))
        total += np.sum(gammaln(ALPHA + counts) - gammaln(ALPHA))
    scatters = np.zeros((n_components, size, size))
    for k in range(n_components):
        own = x[labels == k]
        total += size / 2 * math.log(beta / (beta + counts[k]))
        if counts[k]:
            offset = own.mean(0) - mean
            shrink = beta * counts[k] / (beta + counts[k])
            scatters[k] = (own - own.mean(0)).T @ (own - own.mean(0)) + shrink * np.outer(offset, offset)

    def wishart(dimension, nu_0, s_0, n, s):
        before, after = np.linalg.slogdet(np.atleast_2d(s_0))[1], np.linalg.slogdet(np.atleast_2d(s_0 + s))[1]
        change = multigammaln((nu_0 + n) / 2, dimension) - multigammaln(nu_0 / 2, dimension)
        return change + nu_0 / 2 * before - (nu_0 + n) / 2 * after - n * dimension / 2 * math.log(math.pi)

    match prior.structure.name:
        case "full":
            total += sum(wishart(size, NU, scale, counts[k], scatters[k]) for k in range(n_components))
        case "tied":
            total += wishart(size, n_components * NU, n_components * scale, counts.sum(), scatters.sum(0))
        case "diag":
            for k, d in itertools.product(range(n_components), range(size)):
                total += wishart(1, NU, scale[d], counts[k], scatters[k, d, d])
        case "spherical":
            for k in range(n_components):
                total += wishart(1, size * NU, size * scale, size * counts[k], np.trace(scatters[k]))
    return float(total)


def begin_at(means, prior, weight) -> MixtureParameters:
    n_components, n_features = means.shape
    structure = prior.structure
    zeros = means.new_zeros(structure.covariance_shape(n_components, n_features))
    wide = structure.regularize(zeros, means.new_ones(n_features))
    return MixtureParameters(means.new_ones(n_components) / n_components, means, wide, structure)


@pytest.mark.parametrize("weight_prior", WEIGHTS)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_components", [1, 3])
def test_the_bound_of_distant_clusters_is_the_log_evidence(covariance_type, weight_prior, n_components) -> None:
    state = np.random.RandomState(0)
    labels = state.randint(n_components, size=60)
    centres = 1e3 * np.arange(n_components)[:, None] * np.ones(2)
    x = torch.from_numpy(centres[labels] + state.randn(60, 2) @ state.randn(2, 2))
    # The prior's share in the scatter, mean_precision times the squared distance, stays small.
    prior = prior_of(covariance_type, weight_prior, mean_precision=BETA if n_components == 1 else 1e-8)
    begin = prior.posterior(SufficientStatistics.of_parameters(begin_at(torch.from_numpy(centres), prior, 60.0), 60.0))
    fit = fit_variational(as_points(x), begin, prior, max_iter=5, tol=1e-9)
    assert fit.converged
    assert fit.evidence == pytest.approx(log_evidence(x.numpy(), labels, n_components, prior), abs=1e-6)


@pytest.mark.parametrize("weight_prior", WEIGHTS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_bound_is_below_the_exact_log_evidence(covariance_type, weight_prior) -> None:
    x = np.random.RandomState(1).randn(9, 2) + np.array([2.0, 0.0]) * (np.arange(9) < 4)[:, None]
    prior = prior_of(covariance_type, weight_prior)
    exact = logsumexp(
        [log_evidence(x, np.array(labels), 2, prior) for labels in itertools.product(range(2), repeat=len(x))]
    )
    points = as_points(torch.from_numpy(x))
    start = begin_at(torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64), prior, 9.0)
    begin = prior.posterior(SufficientStatistics.of_parameters(start, 9.0))
    for reg_covar in (0.0, 0.1):
        fit = fit_variational(points, begin, prior, max_iter=300, tol=1e-10, reg_covar=reg_covar)
        assert exact - 5 < fit.evidence < exact


def test_the_bound_never_falls_and_matches_scikit_learn_up_to_a_constant() -> None:
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for weight_prior in WEIGHTS:
        prior = prior_of("full", weight_prior, 3)
        posterior = prior.posterior(SufficientStatistics.of_parameters(begin_at(x[:4], prior, 80.0), 80.0))
        pairs = []
        for _ in range(60):
            statistics = ExactEStep(as_points(x))(posterior.effective)
            uncertainty = entropy(statistics, posterior.effective)
            posterior = prior.posterior(statistics)
            pairs.append(
                (evidence_lower_bound(statistics, uncertainty, posterior, prior), posterior.lower_bound(uncertainty))
            )
            if weight_prior == "dirichlet_process":  # scikit-learn's bound has a last stick that does not take the rest
                counted = betaln(*posterior.weight_concentration[:, -1].numpy()) - betaln(1, ALPHA)
                pairs[-1] = (pairs[-1][0] + counted, pairs[-1][1])
        bounds = np.array(pairs)
        assert np.diff(bounds[:, 0]).min() > -1e-10
        assert np.ptp(bounds[:, 0]) > 1
        assert np.ptp(bounds[:, 0] - bounds[:, 1]) < 1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_entropy_of_the_statistics_is_that_of_the_responsibilities(covariance_type) -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters = begin_at(x[:3], prior_of(covariance_type, WEIGHTS[0]), 50.0)
    weight = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shares = parameters.responsibilities(x)
    expected = -(weight[:, None] * shares * shares.log()).sum()
    torch.testing.assert_close(entropy(ExactEStep(as_points(x, weight))(parameters), parameters), expected)
    # A component of no weight has no part in it.
    without = MixtureParameters(
        torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
        parameters.means,
        parameters.covariances,
        parameters.structure,
    )
    shares = without.responsibilities(x)[:, :2]
    torch.testing.assert_close(entropy(ExactEStep(as_points(x))(without), without), -(shares * shares.log()).sum())


def test_the_entropy_includes_that_of_missing_entries() -> None:
    covariance = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    each = torch.ones(1, dtype=torch.float64)
    parameters = MixtureParameters(each, torch.zeros(1, 2).double(), covariance[None], covariance_structure("full"))
    x = torch.tensor([[1.0, torch.nan], [0.5, 0.2], [torch.nan, torch.nan]], dtype=torch.float64)
    expected = 0.5 * math.log(2 * math.pi * math.e * (1 - 0.8**2 / 2))
    expected += math.log(2 * math.pi * math.e) + 0.5 * float(torch.logdet(covariance))
    assert float(entropy(IncompleteEStep(as_points(x, allow_nan=True))(parameters), parameters)) == pytest.approx(
        expected
    )


def test_the_bound_never_falls_with_missing_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=generator, dtype=torch.float64) + 3 * (torch.arange(120)[:, None] < 50)
    x[torch.rand(120, 3, generator=generator) < 0.3] = torch.nan
    prior = prior_of("full", WEIGHTS[0], 3)
    means = torch.tensor([[3.0] * 3, [0.0] * 3, [1.0] * 3], dtype=torch.float64)
    begin = prior.posterior(SufficientStatistics.of_parameters(begin_at(means, prior, 120.0), 120.0))
    points = as_points(x, allow_nan=True)
    fit = fit_variational(IncompleteEStep(points), begin, prior, tol=1e-8, max_iter=500)
    assert fit.converged
    assert fit.lower_bounds[-1] - fit.lower_bounds[0] > 1
    assert np.diff(fit.lower_bounds).min() > -1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_of_a_start_are_those_of_its_points(covariance_type) -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50) % 3
    shares = torch.nn.functional.one_hot(labels).double()
    structure = covariance_structure(covariance_type)
    statistics = SufficientStatistics.of(x, shares, torch.zeros(3, 2).double(), structure)
    parameters, _ = maximize(statistics, 0.0, torch.ones(2).double())
    prior = prior_of(covariance_type, WEIGHTS[0])
    ours, theirs = prior.posterior(SufficientStatistics.of_parameters(parameters, 50.0)), prior.posterior(statistics)
    for name in ("weight_concentration", "means", "covariances", "degrees_of_freedom", "mean_precision"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-12)


def test_a_process_without_data_keeps_its_prior() -> None:
    structure = covariance_structure("full")
    nothing = SufficientStatistics.of(
        torch.zeros(0, 2).double(), torch.zeros(0, 3).double(), torch.zeros(3, 2).double(), structure
    )
    prior = prior_of("full", WEIGHTS[0])
    posterior = prior.posterior(nothing)
    torch.testing.assert_close(posterior.means, prior.mean.expand(3, 2))
    torch.testing.assert_close(posterior.covariances, (prior.covariance / NU).expand(3, 2, 2))
    stick = 1 / (1 + ALPHA)
    shares = np.array([stick, (1 - stick) * stick, (1 - stick) ** 2 * stick])
    np.testing.assert_allclose(posterior.weights, shares / shares.sum())
    draws = np.random.RandomState(0).beta(1, ALPHA, size=(200_000, 3))
    logs = np.log(draws) + np.log1p(-draws).cumsum(1) - np.log1p(-draws)
    # Six standard errors: a false alarm in 5e8 for each of the three.
    error = 6 * logs.std(0) / math.sqrt(len(logs))
    assert np.all(np.abs(posterior.expected_log_weights.numpy() - logs.mean(0)) < error)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_evidence_of_one_component_is_the_same_under_both_priors_of_the_weights(covariance_type) -> None:
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randint(0, 4, (80,), generator=torch.Generator().manual_seed(1)).double()
    evidences = []
    for weight_prior in WEIGHTS:
        prior = prior_of(covariance_type, weight_prior)
        begin = prior.posterior(SufficientStatistics.of_parameters(begin_at(x[:1], prior, 80.0), 80.0))
        for points in (as_points(x, weight), as_points(x.repeat_interleave(weight.long(), 0))):
            evidences.append(fit_variational(points, begin, prior).evidence)
    exact = log_evidence(np.repeat(x.numpy(), weight.long().numpy(), 0), np.zeros(int(weight.sum()), int), 1, prior)
    np.testing.assert_allclose(evidences, exact, rtol=1e-10)


def test_a_singular_start_is_repaired() -> None:
    x = torch.randn(31, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = prior_of("full", WEIGHTS[0])
    begin = prior.posterior(SufficientStatistics.of_parameters(begin_at(x[:2], prior, 31.0), 31.0))
    flat = replace(begin, covariances=torch.ones(2, 2, 2, dtype=torch.float64))
    with pytest.warns(ConvergenceWarning, match="Singular covariances got a jitter in 1 iteration:"):
        result = fit_variational(as_points(x), flat, prior, max_iter=200, tol=1e-8)
    assert result.converged
    assert np.isfinite(result.lower_bounds).all()
    assert np.diff(result.lower_bounds).min() > -1e-9


def test_a_bound_that_is_not_finite_is_refused() -> None:
    x = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = prior_of("diag", WEIGHTS[0])
    begin = prior.posterior(SufficientStatistics.of_parameters(begin_at(x[:2], prior, 30.0), 30.0))
    with pytest.raises(ValueError, match="Expected a finite bound; got nan in iteration 1"):
        fit_variational(as_points(x), replace(begin, means=begin.means * math.nan), prior)
