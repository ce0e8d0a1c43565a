import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import initialize, start
from latentmix.inference.mixtures.em.m_step import maximize
from latentmix.inference.mixtures.em.missing import (
    IncompleteEStep,
    impute,
    log_joint_with_missing,
    marginalizing,
)
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import ALL_TYPES, TYPES, synthetic


def mixture(covariance_type, n_components=3, n_features=4, seed=0) -> MixtureParameters:
    generator = torch.Generator().manual_seed(seed)
    structure = covariance_structure(covariance_type)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = structure.covariance_shape(n_components, n_features)
    if covariance_type in ("full", "tied"):
        root = drawn(*shape)
        covariances = root @ root.mT + 0.1 * torch.eye(n_features, dtype=torch.float64)
    else:
        covariances = drawn(*shape).exp()
    weights = drawn(n_components).softmax(0)
    return MixtureParameters(weights, drawn(n_components, n_features), covariances, structure)


def expectation(x, parameters, weight=None):
    return IncompleteEStep(as_points(x, weight, allow_nan=True))(parameters)


def seeded(x, n_components, structure):
    e_step = marginalizing(as_points(x, allow_nan=True))
    return initialize(e_step, n_components, structure, random_state=np.random.RandomState(0))


def incomplete(n=200, n_features=4, seed=0, share=0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    x[torch.rand(n, n_features, generator=generator) < share] = torch.nan
    return x


def clusters(seed=0, n=240, share=0.25) -> torch.Tensor:
    """Two elongated clusters in 3-D, a quarter of their entries missing."""
    state = np.random.RandomState(seed)
    root = state.randn(2, 3, 3) * 0.7 + np.eye(3)
    chosen = state.rand(n) < 0.4
    x = np.where(chosen, 2.5, -1.5)[:, None] + np.einsum("nij,nj->ni", root[chosen.astype(int)], state.randn(n, 3))
    x[state.rand(n, 3) < share] = np.nan
    return torch.from_numpy(x)


def by_hand(x, parameters, weight):
    """Log-joint, sums and scatter about the means, and imputed points, one point and component at a time."""
    matrices = parameters.expanded_covariances().numpy()
    means, weights = parameters.means.numpy(), parameters.weights.numpy()
    (k, d), n = means.shape, len(x)
    joint, expected = np.zeros((n, k)), np.zeros((n, k, d))
    second = np.zeros((n, k, d, d))
    for i, row in enumerate(x.numpy()):
        o = ~np.isnan(row)
        for j in range(k):
            own = matrices[j]
            joint[i, j] = np.log(weights[j])
            gain = np.zeros((d, 0))
            if o.any():
                joint[i, j] += multivariate_normal(means[j][o], own[np.ix_(o, o)]).logpdf(row[o])
                gain = own[:, o] @ np.linalg.inv(own[np.ix_(o, o)])
            expected[i, j] = gain @ (row[o] - means[j][o])
            second[i, j] = np.outer(expected[i, j], expected[i, j]) + own - gain @ own[o]
    shares = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None]) * weight[:, None]
    return joint, np.einsum("nk,nkd->kd", shares, expected), np.einsum("nk,nkde->kde", shares, second), expected


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_statistics_and_densities_are_those_of_every_point_on_its_own(covariance_type, share) -> None:
    parameters, x = mixture(covariance_type), incomplete(share=share)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert bool(x.isnan().all(1).any()) == (share == 0.9)
    joint, sums, scatter, expected = by_hand(x, parameters, weight.numpy())
    result = expectation(x, parameters, weight)
    np.testing.assert_allclose(log_joint_with_missing(x, parameters), joint, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(result.sums, sums, rtol=1e-9, atol=1e-10)
    squares = scatter.diagonal(axis1=1, axis2=2)
    by_type = {"full": scatter, "tied": scatter.sum(0), "diag": squares, "spherical": squares.mean(1)}
    by_type["tied_diag"] = squares.sum(0)
    own = result.scatter.mean(1) if covariance_type == "spherical" else result.scatter
    np.testing.assert_allclose(own, by_type[covariance_type], rtol=1e-9, atol=1e-10)
    density = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(result.log_likelihood, density @ weight.numpy(), rtol=1e-12)
    np.testing.assert_allclose(result.counts, np.exp(joint - density[:, None]).T @ weight.numpy(), rtol=1e-10)
    assert float(result.weight) == pytest.approx(float(weight.sum()))
    shares = np.exp(joint - density[:, None])
    filled = impute(x, parameters)
    by_expectation = np.einsum("nk,nkd->nd", shares, parameters.means.numpy() + expected)
    there = ~x.isnan()
    np.testing.assert_allclose(filled[~there], by_expectation[~there.numpy()], rtol=1e-9, atol=1e-10)
    assert torch.equal(filled[there], x[there])


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("complete", [False, True])
def test_points_of_no_weight_count_for_nothing(covariance_type, complete) -> None:
    """Either all complete points have no weight, or all incomplete ones."""
    parameters, x = mixture(covariance_type), incomplete()
    weight = (x.isnan().any(1) != complete).double()
    assert 0 < float(weight.sum()) < len(x)
    result = expectation(x, parameters, weight)
    expected = expectation(x[weight > 0], parameters)
    for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_complete_points_are_those_of_plain_em(covariance_type) -> None:
    x = torch.from_numpy(synthetic(500, n_components=3))
    structure = covariance_structure(covariance_type)
    begin = seeded(x, 3, structure)
    plain = start(x, 3, structure, random_state=np.random.RandomState(0))
    assert torch.equal(begin.means, plain.means)
    ours, theirs = expectation(x, begin), ExactEStep(as_points(x))(begin).about(begin.means)
    for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(log_joint_with_missing(x, begin), begin.log_joint(x), rtol=1e-10, atol=1e-10)


def unconstrained(parameters):
    matrices = parameters.expanded_covariances()
    root = torch.linalg.cholesky(matrices)
    name = parameters.structure.name
    free = {
        "full": root.tril(-1) + torch.diag_embed(root.diagonal(dim1=-2, dim2=-1).log()),
        "tied": root[0].tril(-1) + torch.diag(root[0].diagonal().log()),
    }.get(name, parameters.covariances.log())
    return [value.clone().requires_grad_() for value in (parameters.weights.log(), parameters.means, free)]


def constrained(values, structure, n_features):
    logits, means, free = values
    if structure.name in ("full", "tied"):
        root = free.tril(-1) + torch.diag_embed(free.diagonal(dim1=-2, dim2=-1).exp())
        covariances = root @ root.mT
    else:
        covariances = free.exp()
    return MixtureParameters(logits.softmax(0), means, covariances, structure)


def negative_log_likelihood(x, parameters):
    """Of the observed entries, by the Gaussian marginals of each pattern."""
    matrices = parameters.expanded_covariances()
    total = x.new_zeros(())
    for pattern in x.isnan().unique(dim=0):
        rows, o = (x.isnan() == pattern).all(1), ~pattern
        if not bool(o.any()):
            continue
        own = torch.distributions.MultivariateNormal(parameters.means[:, o], matrices[:, o][:, :, o])
        total = total - (own.log_prob(x[rows][:, None, o]) + parameters.weights.log()).logsumexp(1).sum()
    return total / len(x)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_em_ends_where_direct_optimisation_does(covariance_type) -> None:
    x, structure = clusters(), covariance_structure(covariance_type)
    points = as_points(x, allow_nan=True)
    begin = seeded(x, 2, structure)
    fit = fit_em(IncompleteEStep(points), begin, reg_covar=0.0, tol=1e-15, max_iter=3000)
    bounds = np.array(fit.lower_bounds)
    assert np.diff(bounds).min() > -1e-13
    assert bounds[-1] - bounds[0] > 1e-3

    values = unconstrained(begin)
    optimiser = torch.optim.LBFGS(
        values,
        max_iter=2000,
        tolerance_grad=1e-11,
        tolerance_change=0.0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = negative_log_likelihood(x, constrained(values, structure, 3))
        loss.backward()
        return loss

    optimiser.step(closure)
    best = constrained([value.detach() for value in values], structure, 3)
    assert float(-negative_log_likelihood(x, best)) == pytest.approx(bounds[-1], abs=1e-9)
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(fit.parameters, name), getattr(best, name), rtol=1e-6, atol=1e-6)


def test_a_point_with_nothing_observed_moves_no_maximum() -> None:
    x, structure = clusters(), covariance_structure("full")
    x = x[~x.isnan().all(1)]
    more = torch.cat([x, torch.full((40, 3), torch.nan, dtype=x.dtype)])
    begin = seeded(x, 2, structure)
    options = {"reg_covar": 0.0, "tol": 1e-15, "max_iter": 3000}
    without, result = (fit_em(IncompleteEStep(as_points(a, allow_nan=True)), begin, **options) for a in (x, more))
    torch.testing.assert_close(result.parameters.covariances, without.parameters.covariances, rtol=1e-6, atol=1e-6)
    assert result.lower_bounds[-1] * len(more) == pytest.approx(without.lower_bounds[-1] * len(x))


def test_batches_and_weights_are_those_of_one_array() -> None:
    x = incomplete(300)
    weight = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(3))
    parameters = mixture("full")
    repeated = expectation(x.repeat_interleave(weight, dim=0), parameters)
    batches = [(x[rows], weight[rows].double()) for rows in torch.arange(300).split(70)]
    streamed = IncompleteEStep(as_points(batches, allow_nan=True))(parameters)
    for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
        torch.testing.assert_close(getattr(streamed, name), getattr(repeated, name), rtol=1e-10, atol=1e-10)
    seeds = [
        initialize(IncompleteEStep(points), 3, parameters.structure, random_state=np.random.RandomState(0)).means
        for points in (as_points(x, weight.double(), allow_nan=True), as_points(batches, allow_nan=True))
    ]
    torch.testing.assert_close(*seeds)


def test_patterns_are_told_apart_among_many_features() -> None:
    parameters, x = mixture("diag", n_features=120), incomplete(40, 120, share=0.5)
    x[1] = x[0]
    full = MixtureParameters(
        parameters.weights, parameters.means, parameters.expanded_covariances(), covariance_structure("full")
    )
    torch.testing.assert_close(log_joint_with_missing(x, full), log_joint_with_missing(x, parameters))
    torch.testing.assert_close(
        expectation(x, full).scatter.diagonal(dim1=-2, dim2=-1),
        expectation(x, parameters).scatter,
    )


def test_nearly_singular_covariances_stay_positive_definite() -> None:
    root = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-6, 0.0], [0.0, 0.0, 1e4]], dtype=torch.float64)
    covariance = root @ root.T
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ root.T
    x[torch.rand(400, 3, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    each = torch.ones(1, dtype=torch.float64)
    begin = MixtureParameters(each, torch.zeros(1, 3).double(), covariance[None], covariance_structure("full"))
    statistics = expectation(x, begin)
    fitted, repaired = maximize(statistics, 0.0, torch.ones(3, dtype=torch.float64))
    assert not repaired
    assert bool(torch.linalg.eigvalsh(fitted.covariances / (root.norm(dim=1)[:, None] * root.norm(dim=1))).min() > 0)


def test_mean_filled_points_and_what_is_refused() -> None:
    x = incomplete(50)
    filled = torch.cat([part for part, _ in IncompleteEStep(as_points(x, allow_nan=True)).filled().chunks(7)])
    torch.testing.assert_close(filled, torch.where(x.isnan(), x.nanmean(0), x))
    complete = as_points(torch.ones(3, 2))
    assert marginalizing(complete).filled() is complete
    x[:, 2] = torch.nan
    with pytest.raises(ValueError, match="observed entry in every column; got none in column 2"):
        seeded(x, 2, covariance_structure("full"))
    weight = torch.ones(50, dtype=torch.float64)
    x[0, 2], weight[0] = 1.0, 0.0
    with pytest.raises(ValueError, match="got none in column 2"):
        marginalizing(as_points(x, weight, allow_nan=True))


def test_imputed_points_keep_their_dtype_and_what_was_observed() -> None:
    x = incomplete(20).float()
    filled = impute(x, mixture("full"))
    assert filled.dtype == torch.float32
    assert bool(filled.isfinite().all())
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])


@pytest.mark.parametrize("make", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_estimators_marginalise_and_impute(make, covariance_type) -> None:
    x = clusters(n=500)
    options = {"n_components": 2, "covariance_type": covariance_type, "random_state": 0, "missing": "marginalize"}
    result = make(**options).fit(x.numpy())
    assert result.converged_
    densities = result.score_samples(x.numpy())
    assert isinstance(densities, np.ndarray)
    if make is GaussianMixture:
        joint, _, _, _ = by_hand(x, result.parameters_, np.ones(len(x)))
        np.testing.assert_allclose(densities, np.logaddexp.reduce(joint, axis=1), rtol=1e-9, atol=1e-9)
    tensors = make(**options).fit(x.float())
    filled = tensors.impute(x.float())
    assert isinstance(filled, torch.Tensor)
    assert filled.dtype == torch.float32
    there = ~x.isnan()
    assert torch.equal(filled[there], x[there].float())
    # Better than the columns' means, as the clusters and the correlations tell more.
    truth = clusters(n=500, share=0.0)
    by_mean = torch.where(there, x, x.nanmean(0))
    found_error, mean_error = ((values - truth).square().mean() for values in (filled, by_mean))
    assert found_error < 0.7 * mean_error
    with pytest.raises(ValueError, match="missing='marginalize' for impute"):
        make(n_components=2).fit(truth).impute(x)
    empty = x.clone()
    empty[:, 1] = torch.nan
    with pytest.raises(ValueError, match="observed entry in every column; got none in column 1"):
        make(**options).fit(empty)


def test_a_given_start_does_not_hide_a_column_without_entries() -> None:
    x = clusters()
    x[:, 0] = torch.nan
    start_at = {"weights_init": [0.5, 0.5], "means_init": np.eye(2, 3), "precisions_init": np.stack([np.eye(3)] * 2)}
    with pytest.raises(ValueError, match="got none in column 0"):
        GaussianMixture(2, missing="marginalize", **start_at).fit(x)
