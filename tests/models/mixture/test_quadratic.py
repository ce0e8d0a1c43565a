"""Densities of every covariance structure: centred, and as linear functions of quadratic features."""

import math

import pyro.distributions as dist
import pytest
import torch

from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.features import Products
from latentmix.models.mixture.quadratic import ExpansionErrorBound, coefficients, expansion_error

TYPES = ("full", "diag", "tied", "spherical", "tied_diag")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def components(covariance_type: str, n_components: int, n_features: int, batch: tuple[int, ...] = ()):
    """A structure, means, stored factors of the precisions, and covariances as `... x K x D x D` matrices."""
    structure = covariance_structure(covariance_type)
    scales = draw(*batch, *structure.scale_shape(n_components, n_features), seed=1).exp()
    correlation = None
    if structure.correlated and n_features > 1:
        lower = torch.eye(n_features).double() + 0.3 * draw(*scales.shape, n_features, seed=2).tril(-1)
        correlation = lower / lower.norm(dim=-1, keepdim=True)
    covariances = structure.covariances(scales, correlation)
    means = 2 * draw(*batch, n_components, n_features, seed=3)
    own = structure.by_component(covariances)
    dense = own if structure.correlated else own.expand_as(means).diag_embed()
    return structure, means, structure.precisions_cholesky(covariances), dense.expand(*means.shape, n_features)


@pytest.mark.parametrize("batch", [(), (4,)])
@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_densities_are_the_gaussians(covariance_type: str, n_features: int, batch: tuple[int, ...]) -> None:
    structure, means, factors, dense = components(covariance_type, 3, n_features, batch)
    x = draw(11, n_features) * 2
    expected = dist.MultivariateNormal(means[..., None, :, :], dense[..., None, :, :, :]).log_prob(x[:, None])
    torch.testing.assert_close(structure.log_density(x, means, factors), expected, rtol=1e-11, atol=1e-11)
    at_means = structure.log_scale(factors, n_features).expand(means.shape[:-1])
    expected = dist.MultivariateNormal(means, dense).log_prob(means)
    torch.testing.assert_close(at_means, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_features", [1, 2, 5, 6])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_linear_functions_of_features_are_the_log_densities(covariance_type: str, n_features: int) -> None:
    structure, means, factors, _ = components(covariance_type, 3, n_features)
    x = draw(11, n_features) * 2
    features = structure.features(n_features, x.device)
    block = torch.empty(features.lead + features.count, len(x), dtype=torch.float64)
    block[features.lead : features.lead + n_features] = x.T
    block[features.lead + n_features] = 1.0
    features.fill(block)
    precisions, log_scale = structure.precisions(factors), structure.log_scale(factors, n_features)
    linear = coefficients(structure, features, means, precisions, log_scale) @ block[features.lead :]
    expected = structure.log_density(x, means, factors).T
    if structure.shared:
        linear, expected = linear - linear[0], expected - expected[0]
    torch.testing.assert_close(linear, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_scatter_of_second_moments_is_that_of_the_points(covariance_type: str) -> None:
    structure = covariance_structure(covariance_type)
    responsibilities, deviations = draw(20, 3).softmax(1), draw(20, 3, 4, seed=5)
    moments = torch.einsum("nk,nkd,nke->kde", responsibilities, deviations, deviations)
    expected = structure.scatter(responsibilities, deviations)
    torch.testing.assert_close(structure.scatter_of(moments), expected)
    if not structure.correlated:
        torch.testing.assert_close(structure.scatter_of(moments.diagonal(dim1=-2, dim2=-1)), expected)


@pytest.mark.parametrize("n_features", [1, 2, 3, 6, 7])
def test_products_hold_every_pair_once(n_features: int) -> None:
    products, x = Products(n_features, torch.device("cpu")), draw(n_features, 4)
    block = torch.empty(products.lead + products.count, 4, dtype=torch.float64)
    block[products.lead : products.lead + n_features] = x
    products.fill(block)
    row, column = torch.triu_indices(n_features, n_features)
    expected = (x[row] * x[column]).sum(1)
    assert len(block) == n_features + n_features + 1 + len(row)
    torch.testing.assert_close(block[-len(row) :].sum(1).sort().values, expected.sort().values)


@pytest.mark.parametrize("radius", [0.0, 3.0, 1e3])
@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_bound_is_at_least_the_error(covariance_type: str, n_features: int, radius: float) -> None:
    structure, means, factors, _ = components(covariance_type, 3, n_features)
    variance, features = draw(n_features, seed=4).exp(), structure.features(n_features, means.device)
    bound = ExpansionErrorBound(structure, features, variance, radius)
    for scale in (1e-3, 1.0, 1e3):
        precisions = structure.precisions(factors * scale)
        for shared in (False, True):
            error = float(expansion_error(structure, features, means, precisions, variance, radius, shared=shared))
            assert bound(means, precisions) >= error
    assert math.isnan(bound(means, torch.full_like(precisions, torch.nan)))


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_the_bound_of_several_mixtures_is_the_greatest(covariance_type: str) -> None:
    structure, means, factors, _ = components(covariance_type, 3, 2)
    precisions = structure.precisions(factors)
    bound = ExpansionErrorBound(structure, structure.features(2, means.device), draw(2, seed=4).exp(), 3.0)
    each = [bound(means * scale, precisions * scale) for scale in (0.5, 2.0)]
    both = bound(torch.stack([means * 0.5, means * 2.0]), torch.stack([precisions * 0.5, precisions * 2.0]))
    assert both == pytest.approx(max(each), rel=1e-12)
    assert each[0] < each[1]


def test_the_error_of_a_singular_covariance_is_no_number() -> None:
    structure = covariance_structure("full")
    features, ones = structure.features(2, torch.device("cpu")), torch.ones(2).double()
    singular = torch.full((1, 2, 2), torch.nan).double()
    assert bool(expansion_error(structure, features, ones[None], singular, ones, 1.0).isnan())
