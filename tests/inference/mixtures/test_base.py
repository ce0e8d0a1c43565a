import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Reference

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.points.processes import Processes
from latentmix.inference.mixtures.svi.fit import SVI

from tests.inference.mixtures.clouds import TYPES, synthetic


@pytest.fixture(scope="module")
def x():
    return synthetic(400, n_components=4)


class Batches:
    """Batches that can be iterated again."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("tensors", [False, True])
def test_batches_are_fitted_as_one_array(x, covariance_type, tensors):
    rows = torch.from_numpy(x) if tensors else x
    weight = np.random.RandomState(0).uniform(0.5, 2.0, len(x))
    options = {"covariance_type": covariance_type, "random_state": 0}
    whole = GaussianMixture(4, **options).fit(x, sample_weight=weight)
    pairs = [(rows[:150], weight[:150]), (rows[150:160], weight[150:160]), (rows[160:], weight[160:])]
    for batches in (Batches(*pairs), pairs):
        streamed = GaussianMixture(4, **options).fit(batches)
        assert isinstance(streamed.means_, torch.Tensor) == tensors
        assert streamed.n_features_in_ == 3
        for name in ("weights_", "means_", "covariances_", "lower_bound_"):
            np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-10, atol=1e-10)


def test_invalid_batches_are_refused(x):
    with pytest.raises(ValueError, match=r"got NaN in row 160"):
        GaussianMixture(4).fit(Batches(x[:150], np.where(np.arange(50)[:, None] == 10, np.nan, x[150:200])))
    with pytest.raises(ValueError, match="which is spent after one pass"):
        GaussianMixture(4).fit(batch for batch in (x[:200], x[200:]))
    with pytest.raises(ValueError, match="all batches to have the same features"):
        GaussianMixture(4).fit([x[:200], x[200:, :2]])
    with pytest.raises(ValueError, match="inference='svi'; got batches: pass all points at once"):
        GaussianMixture(4, inference="svi").fit([x[:200], x[200:]])
    with pytest.raises(ValueError, match="Found array with dim 3"):
        GaussianMixture(4).fit(np.stack([x[:200], x[200:]]))


@pytest.mark.parametrize("mode", ["r", "c"])
def test_a_mapped_array_is_fitted_as_one_in_memory(x, tmp_path, mode):
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    held = GaussianMixture(4, random_state=0).fit(np.array(mapped))
    ours = GaussianMixture(4, random_state=0).fit(mapped)
    assert ours.means_.dtype == np.float32
    np.testing.assert_array_equal(ours.means_, held.means_)
    np.testing.assert_array_equal(ours.predict_proba(mapped), held.predict_proba(np.array(mapped)))
    wide = GaussianMixture(4, random_state=0, dtype="float64").fit(mapped)
    assert wide.means_.dtype == np.float64
    np.testing.assert_allclose(wide.means_, held.means_, rtol=1e-4)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("dtype", ["float32", torch.float64])
def test_fits_keep_the_kind_of_array_and_take_the_dtype(x, tensors, dtype):
    rows = torch.from_numpy(x) if tensors else x
    fitted = GaussianMixture(4, random_state=0, device="cpu", dtype=dtype).fit(rows)
    assert str(fitted.means_.dtype).endswith(str(dtype).removeprefix("torch."))
    assert isinstance(fitted.means_, torch.Tensor) == tensors
    assert fitted.predict_proba(rows).dtype == rows.dtype
    again = clone(fitted).fit(rows)
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.means_, fitted.means_)
    np.testing.assert_array_equal(loaded.score_samples(rows), fitted.score_samples(rows))


def test_single_precision_keeps_full_precision_far_from_the_origin(x):
    """Float32 holds a mean near a million to 0.06: predictions use the fit in full precision, not the rounded means."""
    far = torch.from_numpy(x).float() + 1e6
    single = GaussianMixture(4, random_state=0).fit(far)
    double = GaussianMixture(4, random_state=0).fit(far.double())
    assert single.means_.dtype == torch.float32
    assert single.score(far) == pytest.approx(double.score(far.double()), abs=1e-9)
    assert pickle.loads(pickle.dumps(single)).score(far) == single.score(far)
    single.means_ = single.means_ + 1.0
    assert single.score(far) < double.score(far.double()) - 0.1


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictions_follow_attributes_set_by_hand(x, covariance_type):
    theirs = Reference(4, covariance_type=covariance_type, random_state=0).fit(x)
    ours = GaussianMixture(4, covariance_type=covariance_type)
    for name in ("weights_", "means_", "precisions_cholesky_"):
        setattr(ours, name, getattr(theirs, name))
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-8)
    assert ours.bic(x) == pytest.approx(theirs.bic(x))
    assert ours.sample(5)[0].shape == (5, 3)


def test_feature_names_are_scikit_learn_s(x):
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    fitted = GaussianMixture(4, random_state=0).fit(frame)
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_array_equal(fitted.predict(frame), GaussianMixture(4, random_state=0).fit_predict(x))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[["b", "a", "c"]])
    assert not hasattr(fitted.fit([x[:200], x[200:]]), "feature_names_in_")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.where(torch.arange(400)[:, None] > 395, torch.nan, x), "NaN or infinity in 4 rows: 396, 397"),
        (lambda x: x[0], "Expected 2D array, got 1D array"),
        (lambda x: x[:1], r"Found array with 1 sample\(s\)"),
        (lambda x: x[:, :0], r"Found array with 0 feature\(s\)"),
        (lambda x: x.to(torch.complex64), "Complex data not supported"),
        (lambda x: x.to_sparse(), "Expected X to be dense"),
    ],
)
def test_invalid_tensors_are_refused(x, change, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(4).fit(change(torch.from_numpy(x)))


def test_tensors_of_other_dtypes_are_converted(x):
    rows = torch.from_numpy(x)
    fitted = GaussianMixture(4, random_state=0).fit(rows)
    whole = (10 * rows).round()
    assert GaussianMixture(2, random_state=0).fit(whole.long()).means_.dtype == torch.float64
    assert GaussianMixture(2, random_state=0).fit(whole.to(torch.bfloat16)).means_.dtype == torch.float32
    assert not fitted.score_samples(rows.clone().requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        fitted.predict(rows[:, :2])
    with pytest.raises(ValueError, match="NaN or infinity"):
        fitted.predict(rows.log())
    with pytest.raises(ValueError, match="Expected an array or a tensor; got batches"):
        fitted.predict([x[:200], x[200:]])


def test_predictions_do_not_depend_on_chunks(x, monkeypatch):
    fitted = GaussianMixture(4, random_state=0).fit(x)
    noise = np.random.RandomState(0).uniform(0, 1, x.shape)
    before = [fitted.predict_proba(x), fitted.score_samples(x, noise_covariance=noise), fitted.sample(50)[0]]
    monkeypatch.setattr("latentmix.inference.mixtures.base._CHUNK", 7 * 17)
    after = [fitted.predict_proba(x), fitted.score_samples(x, noise_covariance=noise), fitted.sample(50)[0]]
    for whole, chunked in zip(before, after, strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-12, atol=1e-14)


def test_a_seeded_fit_leaves_the_global_random_state_alone(x):
    before = np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        GaussianMixture(4, max_iter=1, random_state=0).fit(x).sample(3)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("inference", [SVI(epochs=3), NUTS(chains=1, draws=3, warmup=3)])
def test_a_mapped_array_in_another_dtype_is_fitted_as_one_in_memory(x, tmp_path, inference):
    np.save(tmp_path / "x.npy", x[:60].astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    mixture = GaussianMixture(
        2, inference=inference, covariance_type="diag", device="cpu", dtype="float64", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        held = clone(mixture).fit(np.array(mapped))
        ours = mixture.fit(mapped)
    assert ours.means_.dtype == np.float64
    np.testing.assert_array_equal(ours.means_, held.means_)


def test_a_mapped_array_in_another_dtype_keeps_its_weights_beside_noise(x, tmp_path):
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    options = {"sample_weight": np.arange(400) % 4, "noise_covariance": np.full((1, 3), 0.1)}
    ours, held = (
        GaussianMixture(4, random_state=0, dtype="float64").fit(a, **options) for a in (mapped, np.array(mapped))
    )
    np.testing.assert_array_equal(ours.means_, held.means_)


@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_batches_are_scored_as_one_array(x, estimator):
    weight = np.random.RandomState(0).uniform(0.5, 2.0, len(x))
    fitted = estimator(n_components=4, random_state=0).fit(x)
    pairs = [(x[:150], weight[:150]), (x[150:], weight[150:])]
    assert fitted.score([x[:150], x[150:]]) == pytest.approx(fitted.score_samples(x).mean(), abs=1e-10)
    assert fitted.score(Batches(*pairs)) == pytest.approx(
        np.average(fitted.score_samples(x), weights=weight), abs=1e-10
    )
    assert fitted.score(x, sample_weight=weight) == pytest.approx(fitted.score(pairs), abs=1e-12)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        fitted.score([x[:, :2]])
    with pytest.raises(ValueError, match="which is spent after one pass"):
        fitted.score(iter([x]))
    with pytest.raises(NotFittedError):
        estimator().score([x])


class Counted:
    """Batches that count how often they are read."""

    def __init__(self, *batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_a_score_reads_the_points_once_and_checks_them(x, estimator):
    fitted = estimator(n_components=4, random_state=0).fit(x)
    batches = Counted(x[:150], x[150:])
    assert fitted.score(batches) == pytest.approx(fitted.score(x), abs=1e-12)
    assert batches.passes == 1
    bad = np.where(np.arange(50)[:, None] == 10, np.nan, x[150:200])
    with pytest.raises(ValueError, match="Expected finite points; got NaN in row 160: drop or mend the row"):
        fitted.score([x[:150], bad])
    with pytest.raises(ValueError, match=r"Expected sample_weight finite and not negative; got -1\.0 in row 151"):
        fitted.score([(x[:150], np.ones(150)), (x[150:152], np.array([1.0, -1.0]))])
    with pytest.raises(ValueError, match="Expected sample_weight not to be all zero; got zeros"):
        fitted.score([(x, np.zeros(400))])
    with pytest.raises(ValueError, match="Expected points; got no rows"):
        fitted.score(Counted())


def test_criteria_count_weights_of_batches(x):
    fitted = GaussianMixture(4, random_state=0).fit(x)
    counts = np.arange(400.0) % 3
    repeats = counts.astype(int)
    assert fitted.bic(Batches(x[:150], x[150:])) == pytest.approx(fitted.bic(x), abs=1e-8)
    assert fitted.bic([(x, counts)]) == pytest.approx(fitted.bic(x.repeat(repeats, axis=0)), abs=1e-8)
    assert fitted.aic([(x, counts)]) == pytest.approx(fitted.aic(x.repeat(repeats, axis=0)), abs=1e-8)


class Twins(Processes):
    """Two processes with the same points."""

    def sum(self, compute):
        first, second = self.gather(lambda: tuple(compute()))
        return tuple(a + b for a, b in zip(first, second, strict=True))

    def _exchange(self, value):
        return [value, value]


def test_scores_are_of_all_processes(x, monkeypatch):
    fitted = GaussianMixture(4, random_state=0).fit(x)
    score, twice = fitted.score(x), np.concatenate([x, x])
    expected = [fitted.aic(twice), fitted.bic(twice)]
    monkeypatch.setattr(Processes, "present", lambda: Twins(2, 0))
    fitted.set_params(distributed=True)
    assert fitted.score(x) == pytest.approx(score, abs=1e-12)
    assert [fitted.aic([x]), fitted.bic(x)] == pytest.approx(expected, abs=1e-8)
    with pytest.raises(ValueError, match="Process 0: X has 2 features"):
        fitted.score(x[:, :2])
    with pytest.raises(ValueError, match="Expected no noise_covariance with distributed=True"):
        fitted.score(x, noise_covariance=np.ones((1, 3)))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", torch.device("cuda", 99)])
@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_an_unknown_device_is_refused(x, device, estimator):
    unfitted = estimator(device=device)
    with pytest.raises(ValueError, match="Expected a device that is here, such as cpu; got '"):
        unfitted.fit(x)
    assert not hasattr(unfitted, "n_features_in_")
    fitted = estimator(random_state=0).fit(x).set_params(device=device)
    for call in (fitted.predict, fitted.score, fitted.score_samples):
        with pytest.raises(ValueError, match="Expected a device that is here"):
            call(x)


@pytest.mark.parametrize("n_samples", [3.0, True, "3", None, 0, -1, np.float64(2)])
def test_n_samples_is_a_positive_integer(x, n_samples):
    fitted = GaussianMixture(2, random_state=0).fit(x)
    with pytest.raises(ValueError, match=r"Invalid value for 'n_samples': .*\. Expected an integer of at least 1"):
        fitted.sample(n_samples)
    assert fitted.sample(np.int64(3))[0].shape == (3, 3)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_follow_precisions_set_by_hand(x, covariance_type, dtype):
    rows = x.astype(dtype)
    options = {"covariance_type": covariance_type, "random_state": 0}
    ours, theirs = (kind(4, **options).fit(rows) for kind in (GaussianMixture, Reference))
    for mixture in (ours, theirs):
        mixture.precisions_cholesky_ = (1.5 * mixture.precisions_cholesky_).astype(dtype)
    np.testing.assert_allclose(
        ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-8 if dtype is np.float64 else 1e-3
    )
    ours.covariances_ = 2 * ours.covariances_
    np.testing.assert_array_equal(ours.parameters_.covariances, ours.covariances_)


def test_covariances_suffice_for_predictions(x):
    fitted = GaussianMixture(2, random_state=0).fit(x)
    score = fitted.score(x)
    del fitted.precisions_cholesky_
    assert fitted.score(x) == pytest.approx(score, abs=1e-12)


def test_points_whose_squares_overflow_are_scored_but_not_fitted(x):
    far = np.concatenate([x, np.full((1, 3), 1e200)])
    fitted = GaussianMixture(2, random_state=0).fit(x)
    assert fitted.score(far) == -np.inf
    with pytest.raises(ValueError, match="divide the points by a common factor"):
        clone(fitted).fit(far)
