import itertools
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import multigammaln
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture as Peer

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture

from tests.inference.mixtures.clouds import TYPES, synthetic

PRIORS = ("dirichlet_process", "dirichlet_distribution")
LEARNED = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "weight_concentration_",
    "mean_precision_",
    "degrees_of_freedom_",
    "mean_prior_",
    "covariance_prior_",
    "lower_bound_",
)


def quietly(estimator, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*args, **options)


def assert_same(a, b, *, rtol=1e-9, names=LEARNED) -> None:
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("max_iter", "priors"), [(0, False), (1, True), (25, False), (25, True)])
def test_the_posterior_matches_scikit_learn(covariance_type, weight_prior, max_iter, priors) -> None:
    x = synthetic(600, n_components=4)
    options = {
        "n_components": 6,
        "covariance_type": covariance_type,
        "weight_concentration_prior_type": weight_prior,
        "max_iter": max_iter,
        "tol": 1e-12,
        "random_state": 0,
    }
    if priors:
        covariance = np.cov(x.T) / 3
        own = {"diag": covariance.diagonal(), "spherical": covariance[0, 0]}.get(covariance_type, covariance)
        options |= {
            "weight_concentration_prior": 0.01,
            "mean_precision_prior": 0.3,
            "mean_prior": x.mean(0) + 1,
            "degrees_of_freedom_prior": 4.5,
            "covariance_prior": own,
            "reg_covar": 1e-3,
        }
    ours, theirs = (quietly(make(**options), x) for make in (BayesianGaussianMixture, Peer))
    names = LEARNED if max_iter else tuple(name for name in LEARNED if name != "lower_bound_")
    assert_same(ours, theirs, names=names)
    np.testing.assert_allclose(ours.lower_bounds_, np.ravel(theirs.lower_bounds_), rtol=1e-10)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    y = synthetic(200, seed=1)
    np.testing.assert_allclose(ours.score_samples(y), theirs.score_samples(y), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(y), theirs.predict_proba(y), atol=1e-8)
    np.testing.assert_array_equal(ours.predict(y), theirs.predict(y))


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_bound_never_falls(covariance_type, weight_prior) -> None:
    fitted = BayesianGaussianMixture(
        n_components=8,
        covariance_type=covariance_type,
        weight_concentration_prior_type=weight_prior,
        reg_covar=0,
        init_params="random",
        max_iter=3000,
        tol=1e-6,
        random_state=0,
    ).fit(synthetic(300, n_components=4))
    assert fitted.n_iter_ > 10
    assert fitted.lower_bounds_[-1] - fitted.lower_bounds_[0] > 10
    assert np.diff(fitted.lower_bounds_).min() > -1e-9


@pytest.mark.parametrize("weight_prior", PRIORS)
def test_superfluous_components_lose_their_weight(weight_prior) -> None:
    state = np.random.RandomState(0)
    truth = np.repeat(np.arange(3), 200)
    x = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, 0.0]])[truth] + state.randn(600, 2)
    fitted = BayesianGaussianMixture(
        n_components=10,
        weight_concentration_prior_type=weight_prior,
        weight_concentration_prior=1e-3,
        max_iter=1000,
        tol=1e-4,
        random_state=0,
    ).fit(x)
    assert (fitted.weights_ > 0.01).sum() == 3
    assert adjusted_rand_score(truth, fitted.predict(x)) > 0.97
    assert np.isfinite(fitted.score(x + 1e6))


def test_the_evidence_bound_selects_the_number_of_components() -> None:
    state = np.random.RandomState(0)
    x = np.repeat([[-4.0, 0.0], [4.0, 0.0]], 150, axis=0) + state.randn(300, 2)
    options = {"weight_concentration_prior_type": "dirichlet_distribution", "weight_concentration_prior": 1.0}
    bounds = [
        quietly(
            BayesianGaussianMixture(n_components=k, reg_covar=0, max_iter=500, random_state=0, **options), x
        ).evidence_lower_bound_
        for k in (1, 2, 5)
    ]
    assert bounds[1] > bounds[0] + 10
    assert bounds[1] > bounds[2]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_integer_weights_count_points(covariance_type) -> None:
    x = synthetic(150, n_components=3)
    weight = np.random.RandomState(0).randint(0, 4, len(x))
    options = {"n_components": 1, "covariance_type": covariance_type, "random_state": 0}
    weighted = BayesianGaussianMixture(**options).fit(x, sample_weight=weight)
    assert_same(weighted, BayesianGaussianMixture(**options).fit(np.repeat(x, weight, axis=0)), rtol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_tensors_batches_and_mapped_arrays_fit_alike(covariance_type, tmp_path) -> None:
    x = synthetic(400, n_components=3)
    options = {"n_components": 4, "covariance_type": covariance_type, "random_state": 0, "max_iter": 20}
    plain = quietly(BayesianGaussianMixture(**options), x)
    tensors = quietly(BayesianGaussianMixture(**options), torch.from_numpy(x))
    for name in (*LEARNED[:5], "mean_precision_"):
        assert isinstance(getattr(tensors, name), torch.Tensor), name
        np.testing.assert_array_equal(getattr(tensors, name), getattr(plain, name))
    assert isinstance(tensors.predict(torch.from_numpy(x)), torch.Tensor)
    assert isinstance(plain.sample(3)[0], np.ndarray)
    mapped = np.memmap(tmp_path / "x", dtype=np.float64, mode="w+", shape=x.shape)
    mapped[:] = x
    assert_same(quietly(BayesianGaussianMixture(**options), mapped), plain, rtol=1e-6)
    batches = [torch.from_numpy(part) for part in np.array_split(x, 7)]
    assert_same(quietly(BayesianGaussianMixture(**options), batches), plain, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_clone_pickle_and_warm_start(covariance_type) -> None:
    x = synthetic(300, n_components=3)
    make = BayesianGaussianMixture(n_components=3, covariance_type=covariance_type, random_state=0, tol=1e-10)
    whole = quietly(clone(make).set_params(max_iter=6), x)
    steps = clone(make).set_params(max_iter=2, warm_start=True)
    for _ in range(3):
        quietly(steps, x)
    assert_same(steps, whole)
    again = pickle.loads(pickle.dumps(whole))
    np.testing.assert_array_equal(again.predict_proba(x), whole.predict_proba(x))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_missing_entries_are_marginalised(covariance_type) -> None:
    state = np.random.RandomState(0)
    truth = np.repeat([0, 1], 200)
    x = np.where(truth, 4.0, -4.0)[:, None] + state.randn(400, 3)
    options = {"n_components": 2, "covariance_type": covariance_type, "random_state": 0}
    complete = BayesianGaussianMixture(**options).fit(x)
    same = BayesianGaussianMixture(missing="marginalize", **options).fit(x)
    assert_same(same, complete, rtol=1e-7)
    holes = np.where(state.rand(*x.shape) < 0.2, np.nan, x)
    with pytest.raises(ValueError, match="NaN"):
        BayesianGaussianMixture(**options).fit(holes)
    fitted = BayesianGaussianMixture(missing="marginalize", **options).fit(holes)
    seen = ~np.isnan(holes).all(1)
    assert adjusted_rand_score(truth[seen], fitted.predict(holes)[seen]) > 0.97
    np.testing.assert_allclose(np.sort(fitted.means_[:, 0]), [-4, 4], atol=0.4)
    assert np.isfinite(fitted.evidence_lower_bound_)


def test_points_far_out_in_float32_and_constant_columns_stay_finite() -> None:
    x = (synthetic(500, n_components=3) + 1e6).astype(np.float32)
    for covariance_type in TYPES:
        fitted = quietly(BayesianGaussianMixture(n_components=5, covariance_type=covariance_type, random_state=0), x)
        assert fitted.means_.dtype == np.float32
        reference = quietly(
            BayesianGaussianMixture(n_components=5, covariance_type=covariance_type, random_state=0), x.astype(float)
        )
        np.testing.assert_allclose(fitted.lower_bound_, reference.lower_bound_, rtol=1e-6)
    constant = np.c_[synthetic(200, n_components=2), np.full(200, 3.0)]
    for covariance_type, reg_covar in itertools.product(TYPES, (0.0, 1e-6)):
        estimator = BayesianGaussianMixture(
            n_components=3, covariance_type=covariance_type, reg_covar=reg_covar, random_state=0
        )
        fitted = quietly(estimator, constant)
        assert np.isfinite(fitted.score(constant))
        assert np.isfinite(fitted.precisions_cholesky_).all()


def collinear(seed=0) -> np.ndarray:
    state = np.random.default_rng(seed)
    t = np.r_[state.normal(-4, 1, 150), state.normal(4, 1, 150)]
    return np.c_[1e4 * t, 2e4 * t + 3, state.normal(size=300)]


def with_outlier(value=1e8, seed=0) -> np.ndarray:
    return np.r_[np.random.default_rng(seed).normal(size=(300, 2)), [[value, value]]]


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_collinear_columns_whose_start_is_singular_are_fitted(covariance_type, weight_prior) -> None:
    x = collinear()
    options = {
        "n_components": 2,
        "covariance_type": covariance_type,
        "weight_concentration_prior_type": weight_prior,
        "random_state": 0,
    }
    fitted = quietly(BayesianGaussianMixture(**options), x)
    assert np.isfinite(fitted.lower_bounds_).all()
    assert np.isfinite(fitted.score(x))
    assert np.isfinite(fitted.means_).all()
    assert adjusted_rand_score(np.repeat([0, 1], 150), fitted.predict(x)) > 0.99
    holes = x.copy()
    holes[::7, 2] = np.nan
    options["max_iter"] = 5
    again = quietly(BayesianGaussianMixture(**options, warm_start=True), x)
    for estimator, points in (
        (BayesianGaussianMixture(**options, n_init=3, init_params="random"), x.astype(np.float32)),
        (BayesianGaussianMixture(**options), x.astype(int)),
        (BayesianGaussianMixture(**options), np.array_split(x, 5)),
        (BayesianGaussianMixture(**options, missing="marginalize"), holes),
        (again, x),
    ):
        assert np.isfinite(quietly(estimator, points).lower_bound_)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_far_outliers_are_refused_as_by_scikit_learn(n_components, init_params) -> None:
    options = {"n_components": n_components, "init_params": init_params, "random_state": 0}
    x = with_outlier()
    if n_components == 1:
        ours, theirs = (quietly(make(**options), x) for make in (BayesianGaussianMixture, Peer))
        assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-2)
        return
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        quietly(Peer(**options), x)
    for n_init, points in ((1, x), (3, x), (1, np.array_split(x, 3))):
        with pytest.raises(ValueError, match="features 0, 1 components whose variance is below 1e-10 of that of all"):
            quietly(BayesianGaussianMixture(**options, n_init=n_init), points)


def test_a_degenerate_start_of_several_is_skipped(monkeypatch) -> None:
    x, begin = synthetic(100, n_components=2), BayesianGaussianMixture._start
    starts: list[int] = []
    bad: set[int] = set()

    def start(self, *args):
        posterior = begin(self, *args)
        starts.append(len(starts) + 1)
        return replace(posterior, means=posterior.means * np.nan) if starts[-1] in bad else posterior

    monkeypatch.setattr(BayesianGaussianMixture, "_start", start)
    for some in ({1}, {2}, {1, 3}):
        starts.clear()
        bad.clear()
        bad.update(some)
        with pytest.warns(ConvergenceWarning, match="Starts were skipped, the last of them for: Expected a finite"):
            fitted = BayesianGaussianMixture(n_components=2, n_init=3, random_state=0).fit(x)
        assert np.isfinite(fitted.lower_bound_)
    starts.clear()
    bad.update({1, 2, 3})
    with pytest.raises(ValueError, match="Expected a finite bound; got nan in iteration 1"):
        BayesianGaussianMixture(n_components=2, n_init=3, random_state=0).fit(x)


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_evidence_of_one_gaussian_is_exact_and_prefers_one_component(covariance_type, weight_prior) -> None:
    wins = 0
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(300, 2))
        single, double = (
            quietly(
                BayesianGaussianMixture(
                    n_components=k,
                    covariance_type=covariance_type,
                    weight_concentration_prior_type=weight_prior,
                    weight_concentration_prior=1.0,
                    reg_covar=0,
                    random_state=0,
                ),
                x,
            ).evidence_lower_bound_
            for k in (1, 2)
        )
        wins += double > single
        assert single == pytest.approx(log_evidence_of_one(x, covariance_type), abs=1e-6)
    assert wins == 0


def log_evidence_of_one(x, covariance_type) -> float:
    """Of one Gaussian under the default priors: Normal-Wishart (full, tied) or Normal-gamma distributions."""
    n, size = x.shape
    scatter, prior = (n - 1) * np.cov(x.T), np.cov(x.T)

    def part(dimension, nu, before, added, count):
        logs = [np.linalg.slogdet(np.atleast_2d(matrix))[1] for matrix in (before, before + added)]
        gammas = multigammaln((nu + count) / 2, dimension) - multigammaln(nu / 2, dimension)
        return gammas + (nu * logs[0] - (nu + count) * logs[1] - count * dimension * np.log(np.pi)) / 2

    total = -size / 2 * np.log(1 + n)
    if covariance_type == "diag":
        return total + sum(part(1, size, prior[d, d], scatter[d, d], n) for d in range(size))
    if covariance_type == "spherical":
        return total + part(1, size * size, np.trace(prior), np.trace(scatter), size * n)
    return total + part(size, size, prior, scatter, n)


def test_bad_priors_are_refused() -> None:
    x = synthetic(50, n_components=2)
    for options, words in (
        ({"degrees_of_freedom_prior": 1.5}, "'degrees_of_freedom_prior' should be greater than 2, but got 1.500"),
        ({"mean_prior": np.zeros(2)}, r"'means' should have the shape of \(3,\), but got \(2,\)"),
        ({"covariance_prior": np.eye(2)}, r"'full covariance_prior' should have the shape of \(3, 3\)"),
        ({"covariance_prior": -np.eye(3)}, "'full covariance_prior' to be symmetric and positive definite"),
        ({"covariance_prior": np.tri(3)}, "'full covariance_prior' to be symmetric and positive definite"),
        ({"covariance_prior": 1e-10 * np.tri(3)}, "'full covariance_prior' to be symmetric and positive definite"),
        ({"covariance_prior": np.eye(3) * np.nan}, "'full covariance_prior' to be finite"),
        ({"covariance_type": "diag", "covariance_prior": -np.ones(3)}, "'diag covariance_prior' to be positive"),
        ({"mean_precision_prior": 0.0}, "'mean_precision_prior'"),
        ({"weight_concentration_prior": -1.0}, "'weight_concentration_prior'"),
        ({"weight_concentration_prior_type": "flat"}, "'weight_concentration_prior_type'"),
        ({"missing": "drop"}, "'missing'"),
        (
            {"covariance_type": "tied_diag"},
            "got 'tied_diag', for whose shared variances it has no prior: take",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            BayesianGaussianMixture(**options).fit(x)
    with pytest.raises(ValueError, match="negative"):
        BayesianGaussianMixture().fit(x, sample_weight=-np.ones(50))
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        BayesianGaussianMixture(n_components=3, max_iter=1, random_state=0).fit(x)
