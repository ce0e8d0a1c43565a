import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.priors import (
    AffineTransformed,
    OrderedMeans,
    affine_transformed,
    as_site,
    converted,
    is_improper,
    is_positive,
)

SCALE, SHIFT = torch.tensor(2.5, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ordered_means_have_a_density_on_the_cone() -> None:
    prior = OrderedMeans(dist.Normal(double(1.0)[0], double(2.0)[0]), 2)
    grid = torch.linspace(-15, 17, 801, dtype=torch.float64)
    pairs = torch.cartesian_prod(grid, grid)[..., None]
    density = prior.log_prob(pairs).exp()
    step = float(grid[1] - grid[0])
    # The cone's edge cuts cells in half: a half of the mean density there, 1 / (2 sqrt(pi) 2), times the step.
    assert float(density.sum()) * step**2 == pytest.approx(1 - step / (2 * math.sqrt(math.pi) * 2), abs=1e-6)
    assert float(prior.log_prob(double(3.0, 1.0)[:, None])) == -math.inf
    three = OrderedMeans(dist.Normal(0.0, 1.0), 3).log_prob(double(-1.0, 0.0, 2.0)[:, None])
    expected = math.log(6) - 2.5 - 1.5 * math.log(2 * math.pi)
    assert float(three) == pytest.approx(expected, abs=1e-12)


def test_ordered_means_draw_order_statistics() -> None:
    torch.manual_seed(0)
    drawn = OrderedMeans(dist.Normal(0.0, 1.0), 2).expand([20000]).sample()
    assert drawn.shape == (20000, 2, 1)
    assert bool((drawn[:, 1] > drawn[:, 0]).all())
    # The mean of the greater of two is 1 / sqrt(pi), its sd 0.826; five standard errors: 6e-7.
    assert float(drawn[:, 1].mean()) == pytest.approx(1 / math.sqrt(math.pi), abs=5 * 0.826 / math.sqrt(20000))


def test_the_map_to_ordered_means_is_bijective() -> None:
    transform = biject_to(OrderedMeans(dist.Normal(0.0, 1.0), 3).support)
    free = double(0.3, -1.0, 0.7)[:, None]
    value = transform(free)
    assert bool((value.diff(dim=0) > 0).all())
    torch.testing.assert_close(transform.inv(value), free)
    jacobian = torch.autograd.functional.jacobian(lambda at: transform(at[:, None])[:, 0], free[:, 0])
    torch.testing.assert_close(transform.log_abs_det_jacobian(free, value), jacobian.slogdet().logabsdet)


@pytest.mark.parametrize(
    "prior",
    [
        dist.HalfNormal(double(1.5)[0]),
        dist.LogNormal(double(0.2)[0], double(0.5)[0]),
        dist.Gamma(double(2.0)[0], double(3.0)[0]),
        dist.InverseGamma(double(2.0)[0], double(3.0)[0]),
        dist.HalfCauchy(double(2.0)[0]),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_positive_priors_stay_positive(prior: dist.TorchDistribution) -> None:
    torch.manual_seed(0)
    pushed = AffineTransformed(prior, SCALE, 0 * SHIFT)
    assert pushed.support is prior.support
    drawn = pushed.sample((50,))
    assert bool((drawn > 0).all())
    torch.testing.assert_close(pushed.log_prob(drawn), prior.log_prob(drawn / SCALE) - SCALE.log())


def test_affine_maps_keep_intervals_and_order() -> None:
    interval = affine_transformed(dist.Uniform(0.0, 4.0).expand([2, 3]).to_event(2), SCALE, SHIFT)
    drawn = interval.sample((200,))
    assert drawn.shape == (200, 2, 3)
    assert drawn.dtype == torch.float64
    assert -1 <= float(drawn.min()) < 0 < 8 < float(drawn.max()) <= 9
    assert float(interval.log_prob(drawn[0])) == pytest.approx(-6 * math.log(10))
    assert bool(interval.support.check(drawn).all())
    assert not bool(interval.support.check(drawn[0] - 10))
    ordered = affine_transformed(OrderedMeans(dist.Normal(0.0, 1.0), 3), SCALE, SHIFT)
    assert bool(ordered.support.check(ordered.sample()))
    assert bool(biject_to(ordered.support)(torch.zeros(3, 1)).diff(dim=0).gt(0).all())


def test_bounds_move_with_the_values() -> None:
    interval = affine_transformed(dist.Uniform(0.0, 4.0), SCALE, SHIFT)
    bound = converted(interval, torch.empty(0, dtype=torch.float32)).support.upper_bound
    assert bound.dtype == torch.float32
    assert interval.support.upper_bound.dtype == torch.float64


def test_flat_priors_stay_flat() -> None:
    flat = MixtureModel.maximum_likelihood(2, 3).declared_priors["scales"]
    assert is_improper(affine_transformed(flat, SCALE, 0 * SHIFT))
    assert affine_transformed(flat, SCALE, 0 * SHIFT).support is flat.support
    assert not is_improper(dist.Normal(0.0, 1.0))


def test_a_beta_is_the_dirichlet_of_both_weights() -> None:
    prior = as_site("weights", dist.Beta(double(2.0)[0], double(5.0)[0]), (2,))
    first = double(0.3)[0]
    weights = torch.stack([first, 1 - first])
    torch.testing.assert_close(prior.log_prob(weights), dist.Beta(2.0, 5.0).log_prob(first))


def test_a_prior_of_one_element_holds_for_each() -> None:
    model = MixtureModel(3, 2, means=dist.Normal(0.0, 10.0), correlations=dist.LKJCholesky(2, 1.0))
    priors = model.priors(torch.empty(0, dtype=torch.float64))
    assert priors["means"].event_shape == (3, 2)
    assert priors["correlation_cholesky"].event_shape == (3, 2, 2)
    assert priors["means"].sample().dtype == torch.float64
    assert float(priors["means"].log_prob(torch.zeros(3, 2))) == pytest.approx(
        -6 * math.log(10) - 3 * math.log(2 * math.pi)
    )


_FLAT_MATRIX = dist.Normal(torch.zeros(2, 2), 1.0).to_event(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrderedMeans(dist.Normal(0.0, 1.0).expand([2]), 2), "Expected a base of one number"),
        (lambda: OrderedMeans(dist.HalfNormal(1.0), 2), "Expected a base of one number on the whole line"),
        (lambda: OrderedMeans(dist.Normal(0.0, 1.0), 0), "Expected n_components >= 1; got 0"),
        (lambda: as_site("weights", dist.Beta(1.0, 1.0), (3,)), r"Expected a prior of shape \(3,\) for weights"),
        (lambda: as_site("scales", dist.Normal(0.0, 1.0), (3,)), "Expected a prior of scales on positive numbers"),
        (lambda: as_site("means", 3.0, (3, 2)), "Expected a distribution of pyro.distributions for means; got 3.0"),
        (lambda: as_site("means", dist.Normal, (3, 2)), "Expected a distribution of pyro.distributions for means"),
        (lambda: as_site("means", torch.distributions.Normal(0.0, 1.0), (3, 2)), "Expected a distribution of pyro"),
        (lambda: as_site("weights", dist.LogNormal(torch.zeros(3), 1.0).to_event(1), (3,)), "weights on Simplex"),
        (lambda: as_site("correlation_cholesky", dist.LKJ(2, 1.0), (2, 2)), "correlation_cholesky on CorrCholesky"),
        (lambda: as_site("correlation_cholesky", _FLAT_MATRIX, (2, 2)), "correlation_cholesky on CorrCholesky"),
        (lambda: AffineTransformed(dist.Poisson(1.0), SCALE, SHIFT), "Expected a prior on the real numbers"),
        (lambda: MixtureModel(2, 2, means=OrderedMeans(dist.Normal(0.0, 1.0), 2)), r"shape \(2, 2\) for means"),
    ],
)
def test_bad_priors_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("prior", "positive", "whole"),
    [
        (dist.HalfNormal(1.0).expand([2, 3]).to_event(2), True, True),
        (dist.LogNormal(0.0, 1.0), True, True),
        (dist.Uniform(1.0, 2.0).expand([3]).to_event(1), True, False),
        (dist.Pareto(2.0, 1.0), True, False),
        (dist.Uniform(-1.0, 2.0), False, False),
        (dist.Normal(0.0, 1.0).expand([2]).to_event(1), False, False),
    ],
)
def test_positive_supports_are_recognised(prior, positive, whole):
    assert (is_positive(prior.support), is_positive(prior.support, whole=True)) == (positive, whole)
