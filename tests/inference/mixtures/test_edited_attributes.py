"""Fitted arrays sorted, pruned or set by hand: everything follows them, and as scikit-learn's does."""

import copy
import io
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as BayesianPeer
from sklearn.mixture import GaussianMixture as Peer

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture

from tests.inference.mixtures.clouds import TYPES, synthetic

PRIORS = ("dirichlet_process", "dirichlet_distribution")
OF_COMPONENTS = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "weight_concentration_",
    "mean_precision_",
    "degrees_of_freedom_",
)
SHARED = ("covariances_", "precisions_", "precisions_cholesky_", "degrees_of_freedom_")
ORDERS = {"reversed": slice(None, None, -1), "permuted": [2, 0, 3, 1], "pruned": [3, 1], "one": [2]}
TRAIN, OTHERS = synthetic(200, n_components=4), synthetic(50, seed=1)


def fitted(make, x=TRAIN, covariance_type="full", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make(n_components=4, covariance_type=covariance_type, random_state=0, max_iter=30, **options).fit(x)


def taken(value, order):
    if isinstance(value, tuple):
        return tuple(taken(part, order) for part in value)
    return value.flip(0) if isinstance(value, torch.Tensor) and order == slice(None, None, -1) else value[order]


def reorder(mixture, order):
    for name in OF_COMPONENTS:
        if hasattr(mixture, name) and not (mixture.covariance_type == "tied" and name in SHARED):
            setattr(mixture, name, taken(getattr(mixture, name), order))
    mixture.weights_ = mixture.weights_ / mixture.weights_.sum()
    return mixture


def assert_predicts_as(ours, theirs, x=OTHERS, rtol=1e-7) -> None:
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=rtol)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=rtol)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_bayesian_predictions_follow_reordered_arrays_as_scikit_learns(covariance_type, weight_prior, order) -> None:
    options = {"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior}
    ours, theirs = (reorder(fitted(make, **options), ORDERS[order]) for make in (BayesianGaussianMixture, BayesianPeer))
    assert_predicts_as(ours, theirs)
    points, components = ours.sample(200)
    assert points.shape == (200, 3)
    assert set(components) <= set(range(len(ours.weights_)))
    for k in set(components):
        spread = np.sqrt(np.linalg.eigvalsh(ours.parameters_.expanded_covariances()[k].numpy()).max())
        assert np.abs(points[components == k] - ours.means_[k]).max() < 6 * spread


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_relabelling_permutes_responsibilities_and_keeps_densities(covariance_type) -> None:
    options = {"covariance_type": covariance_type, "missing": "marginalize"}
    for make, more in (
        (GaussianMixture, {}),
        (BayesianGaussianMixture, {"weight_concentration_prior_type": "dirichlet_distribution"}),
    ):
        whole, order = fitted(make, **options, **more), ORDERS["permuted"]
        moved = reorder(copy.deepcopy(whole), order)
        np.testing.assert_allclose(moved.predict_proba(OTHERS), whole.predict_proba(OTHERS)[:, order], atol=1e-10)
        np.testing.assert_allclose(moved.score_samples(OTHERS), whole.score_samples(OTHERS), rtol=1e-10)
        holes = np.where(np.arange(3) == 1, np.nan, OTHERS)
        np.testing.assert_allclose(moved.impute(holes), whole.impute(holes), rtol=1e-8)
        np.testing.assert_allclose(moved.predict_proba(holes), whole.predict_proba(holes)[:, order], atol=1e-8)
    np.testing.assert_allclose(moved.predictive_log_density(holes), whole.predictive_log_density(holes), rtol=1e-8)


@pytest.mark.parametrize("name", OF_COMPONENTS)
@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_bayesian_predictions_follow_single_attributes_as_scikit_learns(covariance_type, weight_prior, name) -> None:
    options = {"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior}
    ours, theirs = (fitted(make, **options) for make in (BayesianGaussianMixture, BayesianPeer))
    before = ours.score_samples(OTHERS)
    for mixture in (ours, theirs):
        value = getattr(mixture, name)
        setattr(mixture, name, tuple(1.5 * part for part in value) if isinstance(value, tuple) else 1.5 * value)
    assert_predicts_as(ours, theirs)
    moved = not np.allclose(ours.score_samples(OTHERS), before)
    assert moved == (name not in ("weights_", "covariances_", "precisions_"))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_predictions_of_em_follow_reordered_arrays_as_scikit_learns(covariance_type, order) -> None:
    ours, theirs = (
        reorder(fitted(make, covariance_type=covariance_type), ORDERS[order]) for make in (GaussianMixture, Peer)
    )
    assert_predicts_as(ours, theirs)
    assert ours.sample(20)[0].shape == (20, 3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_partial_fit_resumes_from_reordered_arrays(covariance_type) -> None:
    batches, order = np.array_split(TRAIN, 4), ORDERS["permuted"]
    whole = GaussianMixture(4, covariance_type=covariance_type, random_state=0)
    for batch in batches[:3]:
        whole.partial_fit(batch)
    moved = reorder(copy.deepcopy(whole), order).partial_fit(batches[3])
    whole.partial_fit(batches[3])
    assert moved.n_iter_ == whole.n_iter_
    np.testing.assert_allclose(moved.means_, whole.means_[order], rtol=1e-8)
    np.testing.assert_allclose(moved.weights_, whole.weights_[order], rtol=1e-8)
    assert moved.lower_bound_ == pytest.approx(whole.lower_bound_)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_edits_survive_copies_and_files_and_a_warm_start(covariance_type) -> None:
    options = {"covariance_type": covariance_type, "warm_start": True}
    ours, theirs = (
        reorder(fitted(make, **options), ORDERS["reversed"]) for make in (BayesianGaussianMixture, BayesianPeer)
    )
    file = io.BytesIO()
    joblib.dump(ours, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours), joblib.load(file)):
        np.testing.assert_array_equal(again.predict_proba(OTHERS), ours.predict_proba(OTHERS))
        np.testing.assert_array_equal(again.predictive_log_density(OTHERS), ours.predictive_log_density(OTHERS))
    for mixture in (ours, theirs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.set_params(max_iter=3, tol=1e-12).fit(TRAIN)
    assert_predicts_as(ours, theirs)


@pytest.mark.parametrize("weight_prior", PRIORS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_tensors_and_single_precision_follow_too(covariance_type, weight_prior) -> None:
    options = {"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior}
    plain = fitted(BayesianGaussianMixture, **options)
    tensors = fitted(BayesianGaussianMixture, torch.from_numpy(TRAIN), **options)
    single = fitted(BayesianGaussianMixture, TRAIN.astype(np.float32), **options)
    assert single.means_.dtype == np.float32
    kept = copy.deepcopy(single)
    for name in OF_COMPONENTS:  # the same values set again change nothing
        setattr(kept, name, copy.deepcopy(getattr(kept, name)))
    np.testing.assert_array_equal(kept.score_samples(OTHERS), single.score_samples(OTHERS))
    for mixture in (plain, tensors, single):
        reorder(mixture, ORDERS["reversed"])
    result = tensors.predict_proba(torch.from_numpy(OTHERS))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result, plain.predict_proba(OTHERS), atol=1e-12)
    np.testing.assert_allclose(single.predict_proba(OTHERS), plain.predict_proba(OTHERS), atol=2e-3)


def test_whole_numbers_are_taken_as_they_are() -> None:
    ours, theirs = (fitted(make) for make in (BayesianGaussianMixture, BayesianPeer))
    for mixture in (ours, theirs):
        mixture.means_ = np.trunc(mixture.means_).astype(int)
    assert_predicts_as(ours, theirs)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictions_without_factors_of_precisions_are_those_of_the_covariances(covariance_type) -> None:
    mixture = fitted(BayesianGaussianMixture, covariance_type=covariance_type)
    before = mixture.score_samples(OTHERS)
    del mixture.precisions_cholesky_
    np.testing.assert_allclose(mixture.score_samples(OTHERS), before, rtol=1e-10)


def test_attributes_of_different_numbers_of_components_are_refused() -> None:
    mixture = fitted(BayesianGaussianMixture)
    mixture.means_ = mixture.means_[:2]
    with pytest.raises(ValueError, match=r"Expected weight_concentration_ of shape \(2, 2\), as means_ has 2 comp"):
        mixture.predict(OTHERS)


def test_a_singular_covariance_that_was_set_by_hand_is_not_sampled_from() -> None:
    rng = np.random.default_rng(0)
    mixture = GaussianMixture(2, random_state=0).fit(np.r_[rng.normal(-2, 1, (80, 2)), rng.normal(2, 1, (60, 2))])
    mixture.covariances_ = np.array([np.ones((2, 2)), np.eye(2)])
    with pytest.raises(ValueError, match="Expected positive definite covariances to sample; got a singular one"):
        mixture.sample(3)
