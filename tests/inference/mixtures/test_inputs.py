import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.masked import masked_tensor
from torch.utils.data import DataLoader, TensorDataset

from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.inference import compare, map_by_majority, modes, select, standard_errors
from latentmix.inference.mixtures.analysis.gibbs import gibbs
from latentmix.inference.mixtures.analysis.psis import leave_one_out
from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.points import as_points

_rng = np.random.default_rng(0)
X = np.r_[_rng.normal(-2, 1, (80, 2)), _rng.normal(2, 1, (60, 2))]
HIDDEN = _rng.random(X.shape) < 0.1
MASKED = np.ma.array(np.where(HIDDEN, -999.0, X), mask=HIDDEN)
MISSING = MASKED.filled(np.nan)
LABELS = np.repeat([0, 1], [80, 60])
KINDS = [GaussianMixture, BayesianGaussianMixture]


def mixture(kind=GaussianMixture, **options):
    return kind(n_components=2, random_state=0, **options)


@pytest.fixture(scope="module")
def fitted():
    return mixture(tol=1e-10, max_iter=1000).fit(X)


class Generated:
    """Batches from a generator, a new one for every pass."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


# Masked values.


@pytest.mark.parametrize("kind", KINDS)
def test_masked_points_are_fitted_as_missing(kind):
    expected = mixture(kind, missing="marginalize").fit(MISSING)
    for given in (MASKED, list(MASKED), [MASKED[:70], MASKED[70:]], Generated(MASKED[:70], MASKED[70:])):
        ours = mixture(kind, missing="marginalize").fit(given)
        np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-12)
    for name in ("predict", "predict_proba", "score_samples", "score", "impute"):
        np.testing.assert_array_equal(getattr(expected, name)(MASKED), getattr(expected, name)(MISSING))
    assert expected.score([MASKED[:70], MASKED[70:]]) == pytest.approx(expected.score(MISSING), abs=1e-12)


def test_masked_integers_and_mapped_arrays_are_fitted_as_missing(tmp_path):
    counts = np.ma.array(_rng.integers(0, 9, X.shape), mask=HIDDEN)
    mapped = np.memmap(tmp_path / "x", mode="w+", shape=X.shape, dtype=float)
    mapped[:] = np.where(HIDDEN, -999.0, X)
    for given, like in ((counts, counts.astype(float).filled(np.nan)), (np.ma.array(mapped, mask=HIDDEN), MISSING)):
        ours, expected = (mixture(missing="marginalize").fit(x) for x in (given, like))
        np.testing.assert_array_equal(ours.means_, expected.means_)
    points = as_points(np.ma.array(mapped, mask=HIDDEN), allow_nan=True)
    np.testing.assert_allclose(points.location, np.nanmean(MISSING, 0))


def test_masks_without_a_masked_value_have_no_effect(fitted):
    for mask in (np.ma.nomask, np.zeros(X.shape, bool)):
        plain = np.ma.array(X, mask=mask)
        np.testing.assert_array_equal(mixture().fit(plain).means_, mixture().fit(X).means_)
        np.testing.assert_array_equal(fitted.predict(plain), fitted.predict(X))


@pytest.mark.parametrize(
    "options", [{}, {"inference": "svi"}, {"inference": "nuts"}, {"kind": BayesianGaussianMixture}], ids=str
)
def test_masked_points_are_refused_where_missing_values_are(options):
    with pytest.raises(ValueError, match=r"Expected X without missing values; got masked ones, .* take missing="):
        mixture(**options).fit(MASKED)


def test_masked_values_are_refused_by_name(fitted):
    for name in ("predict", "predict_proba", "score_samples", "score", "aic", "bic", "partial_fit"):
        with pytest.raises(ValueError, match="Expected X without missing values; got masked ones"):
            getattr(fitted, name)(MASKED)
    with pytest.raises(ValueError, match=r"got NaN in row \d+: .*masked values are NaN"):
        mixture().fit([MASKED[:70], MASKED[70:]])
    first = np.arange(140) == 3
    refused = {
        "sample_weight finite.*; got nan in row 3": {"sample_weight": np.ma.array(np.ones(140), mask=first)},
        "labels without missing values.* 3: pass labels.filled": {"labels": np.ma.array(LABELS, mask=first)},
        "noise_covariance to be finite": {"noise_covariance": np.ma.array(np.ones_like(X), mask=HIDDEN)},
    }
    for message, given in refused.items():
        with pytest.raises(ValueError, match=message):
            mixture().fit(X, **given)
    with pytest.raises(ValueError, match="'means' to be finite"):
        mixture(means_init=np.ma.array(X[:2], mask=[[0, 0], [1, 0]])).fit(X)
    for call in (
        lambda: modes(MASKED, 2),
        lambda: select(MASKED, 2),
        lambda: compare(fitted, fitted, MASKED),
        lambda: standard_errors(fitted, MASKED),
        lambda: gibbs(MASKED, fitted.parameters_),
        lambda: leave_one_out(np.ma.array(np.zeros((3, 4, 100)), mask=np.eye(3)[:, :1, None] * np.ones((4, 100)))),
        lambda: map_by_majority(LABELS, np.ma.array(LABELS, mask=first), 2, [0, 1]),
        lambda: FittedMixture(fitted, (0, 1), (0, 1)).classify(MASKED),
    ):
        with pytest.raises(ValueError, match="NaN"):
            call()


@pytest.mark.filterwarnings("ignore:.*MaskedTensors")
def test_masked_tensors_are_refused_everywhere(fitted):
    x = masked_tensor(torch.from_numpy(X), torch.from_numpy(~HIDDEN))
    weight = masked_tensor(torch.ones(140), torch.ones(140).bool())
    for call in (
        lambda: mixture(missing="marginalize").fit(x),
        lambda: mixture(BayesianGaussianMixture).fit(x),
        lambda: mixture().fit([x, x]),
        lambda: mixture().fit(X, sample_weight=weight),
        lambda: mixture().fit(X, labels=weight),
        lambda: mixture().fit(X, noise_covariance=x),
        lambda: mixture(means_init=x[:2]).fit(X),
        lambda: mixture().partial_fit(x),
        lambda: fitted.predict(x),
        lambda: fitted.score(x),
        lambda: compare(fitted, fitted, x),
        lambda: modes(x, 2),
        lambda: select(x, 2),
        lambda: standard_errors(fitted, x),
        lambda: gibbs(x, fitted.parameters_),
    ):
        with pytest.raises(ValueError, match="Expected a tensor or an array; got a torch MaskedTensor"):
            call()


def test_missing_values_of_pandas_are_fitted_as_missing():
    frame = pd.DataFrame(MISSING, columns=["a", "b"])
    expected = mixture(missing="marginalize").fit(MISSING).means_
    for form in (frame.astype("Float64"), frame.astype(object).where(~HIDDEN, pd.NA)):
        for given in (form, [form[:70], form[70:]]):
            np.testing.assert_allclose(mixture(missing="marginalize").fit(given).means_, expected, rtol=1e-9)
        with pytest.raises(ValueError, match="NaN"):
            mixture().fit(form)


# Batches.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", [LABELS, LABELS > 0, torch.from_numpy(LABELS), LABELS.tolist(), ["a"] * 140])
def test_class_labels_in_a_batch_are_not_weights(kind, second):
    with pytest.raises(ValueError, match=r"Expected floating-point weights as the second of a pair; got .* in batch 0"):
        mixture(kind).fit([(X, second)])


def test_loaders_of_class_labels_are_refused_by_every_method(fitted):
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)), batch_size=50)
    for call in (mixture().fit, mixture(dtype="float32").fit, mixture().partial_fit, fitted.score, fitted.bic):
        with pytest.raises(ValueError, match=r"got torch.int64 in batch 0, .*yield the points alone"):
            call(loader)
    expected = mixture().fit(X.repeat(1 + LABELS, axis=0)).means_
    np.testing.assert_allclose(mixture().fit(X, sample_weight=1 + LABELS).means_, expected, atol=1e-9)
    np.testing.assert_allclose(mixture().fit([(X, 1.0 + LABELS)]).means_, expected, atol=1e-9)


def test_lists_of_data_frames_are_batches():
    frame = pd.DataFrame(X, columns=["a", "b"])
    expected = mixture().fit(X)
    for given in ([frame[:70], frame[70:]], (frame[:70], frame[70:]), Generated(frame[:70], frame[70:])):
        ours = mixture().fit(given)
        np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-12)
        assert ours.score(given) == pytest.approx(expected.score(X), abs=1e-12)
    pairs = [(frame[:70], np.ones(70)), (frame[70:], pd.Series(np.ones(70)))]
    np.testing.assert_allclose(mixture().fit(pairs).means_, expected.means_, rtol=1e-12)


def test_loaders_are_fitted_as_one_array():
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=50)
    for given in (loader, list(loader)):
        np.testing.assert_allclose(mixture().fit(given).means_, mixture().fit(X).means_, rtol=1e-12)


def test_loaders_that_shuffle_are_reproducible_and_leave_the_random_state():
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=50, shuffle=True)
    before = torch.get_rng_state()
    first = mixture().fit(loader)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first.means_, mixture().fit(loader).means_)
    with pytest.raises(ValueError, match="Expected points in the order of their labels; got a DataLoader"):
        mixture().fit(loader, labels=LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_predict_of_batches_is_refused_before_the_fit(kind):
    frame = pd.DataFrame(X)
    for given in ([X, X], [frame, frame], DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=50)):
        estimator = mixture(kind)
        with pytest.raises(ValueError, match="Expected an array or a tensor; got batches: pass them one by one"):
            estimator.fit_predict(given)
        assert not hasattr(estimator, "means_")
        with pytest.raises(ValueError, match="Expected an array or a tensor; got batches: pass them one by one"):
            estimator.fit(X).predict(given)


# Arrays of any kind.


def forms(array):
    read_only = array.copy()
    read_only.flags.writeable = False
    yield array.astype(array.dtype.newbyteorder(">"))
    yield array[::-1].copy()[::-1]
    yield read_only
    yield array.astype(object)
    yield array.tolist()
    if array.dtype.kind == "f":
        yield array.astype(np.longdouble)


def by_hand(means):
    estimator = mixture(max_iter=3, tol=10.0).fit(X)
    estimator.means_ = means
    return np.r_[estimator.score_samples(X), estimator.predict(X), np.ravel(estimator.sample(3)[0])]


TAKEN = {
    "points": (X, lambda x: mixture().fit(x).means_),
    "points of a Bayesian mixture": (X, lambda x: mixture(BayesianGaussianMixture).fit(x).means_),
    "points of partial_fit": (X, lambda x: mixture().partial_fit(x).means_),
    "weights": (1.0 + LABELS, lambda w: mixture().fit(X, sample_weight=w).means_),
    "labels": (LABELS, lambda labels: mixture().fit(X, labels=labels).means_),
    "noise": (np.full_like(X, 0.1), lambda noise: mixture().fit(X, noise_covariance=noise).means_),
    "means_init": (X[[0, -1]], lambda means: mixture(means_init=means, max_iter=20).fit(X).means_),
    "precisions_init": (np.stack([np.eye(2)] * 2), lambda p: mixture(precisions_init=p, max_iter=20).fit(X).means_),
    "covariance_prior": (2 * np.eye(2), lambda prior: mixture(covariance_prior=prior).fit(X).means_),
    "Bayesian covariance_prior": (
        2 * np.eye(2),
        lambda prior: mixture(BayesianGaussianMixture, covariance_prior=prior).fit(X).means_,
    ),
    "mean_prior": (np.ones(2), lambda prior: mixture(BayesianGaussianMixture, mean_prior=prior).fit(X).means_),
    "attributes set by hand": (X[[0, -1]], by_hand),
    "modes": (X, lambda x: modes(x, 2, n_starts=2).log_likelihoods),
    "select": (X, lambda x: select(x, 2, "full", criteria="bic").candidates[0].bic),
}


@pytest.mark.parametrize("name", TAKEN)
def test_arrays_of_any_byte_order_strides_and_type_are_accepted(name):
    array, call = TAKEN[name]
    expected = call(array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in forms(array):
            np.testing.assert_allclose(call(form), expected, rtol=1e-10)


def test_functions_of_points_accept_data_frames_without_warnings(fitted):
    calls = [
        lambda x: standard_errors(fitted, x).means,
        lambda x: standard_errors(fitted, X, sample_weight=pd.Series(np.ones(140))).means,
        lambda x: standard_errors(fitted, x, method="bootstrap", n_bootstrap=2).means,
        lambda x: modes(x, 2, n_starts=2).log_likelihoods,
        lambda x: select(x, 2, "full", criteria=["bic", "loo"], draws=50).candidates[0].loo,
        lambda x: gibbs(x, fitted.parameters_, draws=3, warmup=1).means,
    ]
    read_only = X.copy()
    read_only.flags.writeable = False
    frame = pd.DataFrame(X, columns=["a", "b"])
    expected = [call(X) for call in calls]
    for given in (frame, frame.astype("Float64"), read_only):
        named = mixture().fit(given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for call, values in zip(calls, expected, strict=True):
                np.testing.assert_allclose(call(given), values, rtol=1e-9)
            assert compare(named, named, given).agreement == 1


# Weighted criteria.


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_criteria_count_a_weight_as_that_many_points(covariance_type):
    estimator = mixture(covariance_type=covariance_type).fit(X)
    counts = 1 + LABELS
    for name in ("bic", "aic"):
        criterion = getattr(estimator, name)
        repeated = criterion(X.repeat(counts, axis=0))
        assert criterion(X, sample_weight=counts) == pytest.approx(repeated, abs=1e-8)
        assert criterion([(X, 1.0 * counts)]) == pytest.approx(repeated, abs=1e-8)
        with pytest.raises(ValueError, match="Expected sample_weight of shape"):
            criterion(X, sample_weight=counts[:3])


def test_criteria_account_for_noise():
    noise = np.full_like(X, 0.3)
    estimator = mixture().fit(X, noise_covariance=noise)
    total, free = len(X) * estimator.score(X, noise_covariance=noise), 11
    assert estimator.aic(X, noise_covariance=noise) == pytest.approx(-2 * total + 2 * free, abs=1e-8)
    assert estimator.bic(X, noise_covariance=noise) == pytest.approx(-2 * total + free * np.log(len(X)), abs=1e-8)
