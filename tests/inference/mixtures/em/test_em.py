import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.m_step import maximize
from latentmix.inference.mixtures.em.statistics import SufficientStatistics, moments
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import ALL_TYPES, DEGENERATE, TYPES, begin, blobs, from_assignments


def reference(parameters, covariance_type, **options):
    return Reference(
        len(parameters.weights),
        covariance_type=covariance_type,
        weights_init=parameters.weights.numpy(),
        means_init=parameters.means.numpy(),
        precisions_init=parameters.structure.precisions(parameters.precisions_cholesky).numpy(),
        **options,
    )


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("max_iter", "tolerance"), [(1, 1e-10), (300, 1e-8)])
def test_em_matches_scikit_learn(covariance_type, max_iter, tolerance):
    x = blobs()
    first = begin(x, covariance_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = reference(first, covariance_type, max_iter=max_iter, tol=1e-9).fit(x.numpy())
    ours = fit_em(x, first, max_iter=max_iter, tol=1e-9)
    for name in ("weights", "means", "covariances"):
        expected = torch.from_numpy(getattr(theirs, name + "_"))
        torch.testing.assert_close(getattr(ours.parameters, name), expected, rtol=0, atol=tolerance)
    assert ours.n_iter == theirs.n_iter_
    assert ours.converged == theirs.converged_
    np.testing.assert_allclose(ours.lower_bounds, theirs.lower_bounds_, rtol=0, atol=tolerance)


def plain_em(x, weights, means, covariances, iterations):
    """EM by loops over dense covariances, each M step as the definition of the structure has it."""

    def log_joint(weights, means, matrices):
        parts = []
        for weight, mean, matrix in zip(weights, means, matrices, strict=True):
            deviations = x - mean
            squares = (deviations @ np.linalg.inv(matrix) * deviations).sum(1)
            log_det = np.linalg.slogdet(2 * np.pi * matrix)[1]
            parts.append(np.log(weight) - 0.5 * (squares + log_det))
        return np.stack(parts, 1)

    bounds = []
    for _ in range(iterations):
        joint = log_joint(weights, means, covariances)
        density = np.logaddexp.reduce(joint, axis=1)
        bounds.append(density.mean())
        responsibilities = np.exp(joint - density[:, None])
        counts = responsibilities.sum(0)
        weights, means = counts / len(x), responsibilities.T @ x / counts[:, None]
        squares = sum(responsibilities[:, [k]] * (x - mean) ** 2 for k, mean in enumerate(means))
        covariances = [np.diag(squares.sum(0) / len(x) + 1e-6)] * len(means)
    return weights, means, covariances[0].diagonal(), bounds


def test_em_of_tied_variances_matches_plain_em():
    x = blobs()
    first = begin(x, "tied_diag")
    parts = (first.weights.numpy(), first.means.numpy(), list(first.expanded_covariances().numpy()))
    weights, means, variances, bounds = plain_em(x.numpy(), *parts, iterations=40)
    ours = fit_em(x, first, max_iter=40, tol=0.0)
    np.testing.assert_allclose(ours.lower_bounds, bounds, rtol=1e-12)
    for name, expected in [("weights", weights), ("means", means), ("covariances", variances)]:
        np.testing.assert_allclose(getattr(ours.parameters, name), expected, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("seed", range(6))
def test_bound_never_falls_without_a_floor(covariance_type, seed):
    x = blobs(seed, n=200)
    first = begin(x, covariance_type, seed, method="random_from_data", reg_covar=0.0)
    result = fit_em(x, first, reg_covar=0.0, tol=0.0, max_iter=150)
    assert result.n_repaired == result.n_reseeded == 0
    assert np.diff(result.lower_bounds).min() > -1e-9
    assert result.lower_bounds[-1] > result.lower_bounds[0] + 0.01


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_integer_weights_equal_repetition(covariance_type):
    x = blobs(n=120)
    counts = torch.from_numpy(np.random.RandomState(5).randint(0, 4, len(x)))
    first = begin(x, covariance_type)
    weighted = fit_em(as_points(x, counts.double()), first, tol=0.0, max_iter=20)
    repeated = fit_em(x.repeat_interleave(counts, 0), first, tol=0.0, max_iter=20)
    for name in ("weights", "means", "covariances"):
        each, other = getattr(weighted.parameters, name), getattr(repeated.parameters, name)
        torch.testing.assert_close(each, other, rtol=0, atol=1e-10)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_statistics_add_up(covariance_type, monkeypatch):
    x = blobs()
    parameters = begin(x, covariance_type)
    whole = ExactEStep(as_points(x))(parameters)
    parts = [ExactEStep(as_points(part))(parameters) for part in x.split(77)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    monkeypatch.setattr("latentmix.inference.mixtures.em.kernels._LARGEST", 64)
    chunked = ExactEStep(as_points(x))(parameters)
    for other in (total.about(whole.centres), chunked):
        for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
            torch.testing.assert_close(getattr(whole, name), getattr(other, name), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_float32_far_from_the_origin(covariance_type):
    x = blobs()
    far = x + 1e6
    near, moved = begin(x, covariance_type), begin(far, covariance_type)
    a, b = fit_em(x, near, tol=1e-6), fit_em(far, moved, tol=1e-6)
    assert a.lower_bounds[-1] == pytest.approx(b.lower_bounds[-1], abs=1e-6)
    single = fit_em(far.float(), moved, tol=1e-6)
    assert single.parameters.means.dtype == torch.float64
    assert bool(single.parameters.precisions_cholesky.isfinite().all())


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("method", ["kmeans", "random_from_data"])
def test_degenerate_data_stay_finite(covariance_type, reg_covar, case, method):
    x = DEGENERATE[case](blobs(n=60))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = begin(x, covariance_type, method=method, reg_covar=reg_covar)
        result = fit_em(x, first, reg_covar=reg_covar, max_iter=30)
    for parameters in (first, result.parameters):
        for tensor in (parameters.weights, parameters.means, parameters.precisions_cholesky):
            assert bool(tensor.isfinite().all())
        covariances = parameters.expanded_covariances()
        scale = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        correlations = covariances / (scale[:, :, None] * scale[:, None, :])
        assert int(torch.linalg.cholesky_ex(correlations)[1].sum()) == 0
        assert bool(parameters.log_likelihood(x.double()).isfinite().all())
    assert np.isfinite(result.lower_bounds).all()
    assert float(result.parameters.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_ill_conditioned_clouds_are_fitted_as_their_round_images(covariance_type, condition):
    """EM is the same under linear maps: what is fitted to stretched points is the image of what is fitted to round."""
    x = blobs(n=400, spread=0.3)
    axes = torch.from_numpy(np.linalg.qr(np.random.RandomState(1).randn(3, 3))[0])
    moved = axes * torch.tensor([1.0, condition**-0.25, condition**-0.5]).double()
    first = begin(x, covariance_type, reg_covar=0.0)
    images = MixtureParameters(
        first.weights, first.means @ moved.T, moved @ first.covariances @ moved.T, first.structure
    )
    fits = [
        fit_em(points, each, reg_covar=0.0, tol=0.0, max_iter=20)
        for points, each in ((x, first), (x @ moved.T, images))
    ]
    assert fits[1].n_repaired == 0
    jacobian = float(torch.linalg.slogdet(moved)[1])
    digits = 1e-15 * condition
    np.testing.assert_allclose(
        np.array(fits[1].lower_bounds) + jacobian, fits[0].lower_bounds, rtol=0, atol=max(1e-9, digits)
    )
    assert np.diff(fits[1].lower_bounds).min() > -max(1e-9, digits)
    torch.testing.assert_close(fits[1].parameters.weights, fits[0].parameters.weights, rtol=0, atol=max(1e-9, digits))


def test_floored_steps_are_counted():
    """The exact steps on which scikit-learn's own bound falls, from the same start."""
    x = blobs(spread=0.3)
    first = begin(x, "full", reg_covar=0.3)
    floored = fit_em(x, first, reg_covar=0.3, tol=0.0, max_iter=60)
    theirs = reference(first, "full", reg_covar=0.3, tol=0.0, max_iter=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x.numpy())
    falls = int((np.diff(theirs.lower_bounds_) < -1e-12 * np.abs(theirs.lower_bounds_[1:])).sum())
    assert floored.n_floored == falls > 0
    assert fit_em(x, begin(x, "full", reg_covar=0.0), reg_covar=0.0, tol=0.0, max_iter=60).n_floored == 0


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_and_a_mapped_file_are_the_full_batch(covariance_type, weighted, tmp_path):
    x = blobs(n=500)
    weight = torch.arange(len(x)).double() % 3 if weighted else None
    x.numpy().tofile(tmp_path / "points")
    mapped = np.memmap(tmp_path / "points", dtype=np.float64, mode="r", shape=tuple(x.shape))
    batches = x.split(37) if weight is None else list(zip(x.split(37), weight.split(37), strict=True))
    expected = None
    for given, own in [(x, weight), (mapped, weight), (batches, None)]:
        points = as_points(given, own)
        result = fit_em(points, begin(points, covariance_type), tol=0.0, max_iter=25)
        expected = result if expected is None else expected
        np.testing.assert_allclose(result.lower_bounds, expected.lower_bounds, rtol=0, atol=1e-10)
        for name in ("weights", "means", "covariances"):
            each, other = getattr(result.parameters, name), getattr(expected.parameters, name)
            torch.testing.assert_close(each, other, rtol=0, atol=1e-10)


def test_em_takes_an_e_step_of_ones_own():
    x = blobs()
    first, seen = begin(x, "full"), []

    class Watched(EStep):
        def __call__(self, parameters):
            seen.append(parameters)
            return exact(parameters)

    exact = ExactEStep(as_points(x))
    result, plain = fit_em(Watched(exact.points), first, max_iter=3, tol=0.0), fit_em(x, first, max_iter=3, tol=0.0)
    np.testing.assert_allclose(result.lower_bounds, plain.lower_bounds, rtol=0, atol=1e-12)
    assert len(seen) == 3


def test_points_that_do_not_fit_are_refused():
    x = blobs()
    first = begin(x, "full")
    with pytest.raises(ValueError, match="Expected points with 3 features; got 2"):
        fit_em(x[:, :2], first)


def test_a_singular_component_warns():
    x = torch.cat([blobs(n=60), torch.full((5, 3), 50.0, dtype=torch.float64)])
    assignments = torch.cat([torch.zeros(60, dtype=torch.long), torch.ones(5, dtype=torch.long)])
    first = from_assignments(x, assignments, 2, covariance_structure("full"), reg_covar=0.0)
    with pytest.warns(ConvergenceWarning, match="jitter"):
        result = fit_em(x, first, reg_covar=0.0, max_iter=5)
    assert bool(result.parameters.precisions_cholesky.isfinite().all())


def test_the_m_step_is_the_closed_form():
    x, parts = blobs(n=50), torch.arange(50) % 2
    shares = torch.nn.functional.one_hot(parts).double()
    centres = torch.randn(2, 3, dtype=torch.float64)
    statistics = SufficientStatistics.of(x, shares, centres, covariance_structure("full"))
    fitted, repaired = maximize(statistics, 0.0, moments(x)[1])
    assert not repaired
    for k in range(2):
        torch.testing.assert_close(fitted.means[k], x[parts == k].mean(0))
        torch.testing.assert_close(fitted.covariances[k], x[parts == k].T.cov(correction=0))
