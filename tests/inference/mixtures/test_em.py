import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from latentmix.inference.mixtures.em import SufficientStatistics, expectation, fit_em, moments
from latentmix.inference.mixtures.starts import from_assignments, from_labels, start
from latentmix.models.covariances import covariance_structure
from latentmix.models.parameters import MixtureParameters

TYPES = ("full", "diag", "tied", "spherical")


def blobs(seed=0, n=300, n_features=3, n_components=4, spread=0.6):
    random = np.random.RandomState(seed)
    centres = random.uniform(-4, 4, (n_components, n_features))
    roots = random.randn(n_components, n_features, n_features) * spread
    chosen = random.randint(n_components, size=n)
    noise = np.einsum("nij,nj->ni", roots[chosen], random.randn(n, n_features))
    return torch.from_numpy(centres[chosen] + noise + 0.2 * random.randn(n, n_features))


def begin(x, covariance_type, seed=0, n_components=4, **options):
    random_state = np.random.RandomState(seed)
    return start(x, n_components, covariance_structure(covariance_type), random_state=random_state, **options)


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
def test_equals_scikit_learn_from_the_same_start(covariance_type, max_iter, tolerance):
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


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["kmeans", "random"])
def test_starts_are_scikit_learn_s(covariance_type, method):
    x = blobs()
    ours = begin(x, covariance_type, method=method)
    theirs = Reference(4, covariance_type=covariance_type, init_params=method, max_iter=0, random_state=0)
    theirs.fit(x.numpy())
    torch.testing.assert_close(ours.means, torch.from_numpy(theirs.means_), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.covariances, torch.from_numpy(theirs.covariances_), rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("seed", range(6))
def test_never_falls_without_a_floor(covariance_type, seed):
    x = blobs(seed, n=200)
    first = begin(x, covariance_type, seed, method="random_from_data", reg_covar=0.0)
    result = fit_em(x, first, reg_covar=0.0, tol=0.0, max_iter=150)
    assert result.n_repaired == result.n_reseeded == 0
    assert np.diff(result.lower_bounds).min() > -1e-9
    assert result.lower_bounds[-1] > result.lower_bounds[0] + 0.01


@pytest.mark.parametrize("covariance_type", TYPES)
def test_integer_weights_equal_repetition(covariance_type):
    x = blobs(n=120)
    counts = torch.from_numpy(np.random.RandomState(5).randint(0, 4, len(x)))
    first = begin(x, covariance_type)
    weighted = fit_em(x, first, sample_weight=counts.double(), tol=0.0, max_iter=20)
    repeated = fit_em(x.repeat_interleave(counts, 0), first, tol=0.0, max_iter=20)
    for name in ("weights", "means", "covariances"):
        one, other = getattr(weighted.parameters, name), getattr(repeated.parameters, name)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_add_up(covariance_type, monkeypatch):
    x = blobs()
    parameters = begin(x, covariance_type)
    whole = expectation(x, parameters)
    parts = [expectation(part, parameters) for part in x.split(77)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    monkeypatch.setattr("latentmix.inference.mixtures.statistics._CHUNK", 500)
    chunked = expectation(x, parameters)
    for other in (total, chunked):
        for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
            torch.testing.assert_close(getattr(whole, name), getattr(other, name), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_far_from_the_origin(covariance_type):
    x = blobs()
    far = x + 1e6
    near, moved = begin(x, covariance_type), begin(far, covariance_type)
    a, b = fit_em(x, near, tol=1e-6), fit_em(far, moved, tol=1e-6)
    assert a.lower_bounds[-1] == pytest.approx(b.lower_bounds[-1], abs=1e-6)
    single = fit_em(far.float(), moved, tol=1e-6)
    assert single.parameters.means.dtype == torch.float64
    assert bool(single.parameters.precisions_cholesky.isfinite().all())


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize("case", ["duplicates", "constant column", "one point", "tiny", "one more than components"])
def test_degenerate_data_stay_finite(covariance_type, reg_covar, case):
    x = blobs(n=60)
    x = {
        "duplicates": x[:5].repeat(12, 1),
        "constant column": torch.cat([x, torch.full((60, 1), 7.0, dtype=x.dtype)], 1),
        "one point": x[:1].repeat(20, 1),
        "tiny": x * 1e-9,
        "one more than components": x[:5],
    }[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = begin(x, covariance_type, reg_covar=reg_covar)
        result = fit_em(x, first, reg_covar=reg_covar, max_iter=30)
    for tensor in (result.parameters.weights, result.parameters.means, result.parameters.precisions_cholesky):
        assert bool(tensor.isfinite().all())
    assert bool(result.parameters.log_likelihood(x).isfinite().all())


def test_a_dead_component_is_started_anew():
    x = blobs()
    first = begin(x, "full")
    means = first.means.clone()
    means[2] = 1e4
    dead = MixtureParameters(first.weights, means, first.covariances, first.structure)
    with pytest.warns(ConvergenceWarning, match="started anew"):
        result = fit_em(x, dead)
    assert result.n_reseeded >= 1
    assert result.parameters.weights.min() > 1e-3
    assert result.parameters.means.abs().max() < 100


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
    fitted, repaired = statistics.maximize(0.0, moments(x)[1])
    assert not repaired
    for k in range(2):
        torch.testing.assert_close(fitted.means[k], x[parts == k].mean(0))
        torch.testing.assert_close(fitted.covariances[k], x[parts == k].T.cov(correction=0))


def test_labels_seed_their_components():
    x = blobs(2, spread=0.3)
    full = covariance_structure("full")
    hidden = fit_em(x, begin(x, "full"), tol=1e-8, max_iter=500).parameters.responsibilities(x).argmax(1)
    labels = torch.full((len(x),), -1)
    for k in range(4):
        labels[torch.nonzero(hidden == k).flatten()[:4]] = 3 - k
    seeded = from_labels(x, labels, 4, full)
    assert (seeded.responsibilities(x).argmax(1) == 3 - hidden).double().mean() > 0.9
    for bad, message in [
        (labels.clamp_max(2), r"none for components \[3\]"),
        (labels + 1, r"Expected labels in -1 ... 3; got 0 ... 4"),
        (labels[:-1], "Expected integer labels of shape"),
        (labels.double(), "Expected integer labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_labels(x, bad, 4, full)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="Expected init_params in"):
        begin(blobs(), "full", method="guess")
