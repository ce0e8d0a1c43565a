import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture as BayesianReference
from sklearn.mixture import GaussianMixture as Reference

from latentmix.inference import BayesianGaussianMixture, GaussianMixture
from latentmix.inference.mixtures.em import initialization as starts
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import from_labels, from_seeds, start
from latentmix.inference.mixtures.points.points import as_points
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models.mixture.covariances import covariance_structure

from tests.inference.mixtures.clouds import TYPES, begin, blobs, from_assignments, from_responsibilities, synthetic

METHODS = ("kmeans", "k-means++", "random", "random_from_data")


def assert_equal(each, other, atol=1e-10):
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(each, name), getattr(other, name), rtol=0, atol=atol)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["kmeans", "random"])
def test_starts_are_scikit_learn_s(covariance_type, method):
    x = blobs()
    ours = begin(x, covariance_type, method=method)
    theirs = Reference(4, covariance_type=covariance_type, init_params=method, max_iter=0, random_state=0)
    theirs.fit(x.numpy())
    torch.testing.assert_close(ours.means, torch.from_numpy(theirs.means_), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.covariances, torch.from_numpy(theirs.covariances_), rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_start_is_the_m_step_of_its_assignments(covariance_type, weighted):
    """Against scikit-learn's clusters and seeds, and moments component by component; points in ascending order."""
    x = blobs().unique(dim=0)
    weight = torch.arange(len(x)).double() % 3 + 0.5 if weighted else None
    own = torch.ones(len(x)).double() if weight is None else weight
    given = None if weight is None else weight.numpy()
    structure = covariance_structure(covariance_type)
    clusters = KMeans(4, n_init=1, random_state=np.random.RandomState(1)).fit(x.numpy(), sample_weight=given)
    seeds = kmeans_plusplus(x.numpy(), 4, random_state=np.random.RandomState(1), sample_weight=given)[0]
    nearest = np.square(x.numpy()[:, None] - seeds).sum(2).argmin(1)
    drawn = np.random.RandomState(1).uniform(size=(300, 4))
    chance = None if given is None else given / given.sum()
    rows = np.random.RandomState(1).choice(300, 4, replace=False, p=chance)
    of_rows = np.square(x.numpy()[:, None] - x.numpy()[rows]).sum(2).argmin(1)
    memberships = {
        "kmeans": np.eye(4)[clusters.labels_],
        "k-means++": np.eye(4)[nearest],
        "random": drawn / drawn.sum(1, keepdims=True),
        "random_from_data": np.eye(4)[of_rows],
    }
    for method, membership in memberships.items():
        shares = torch.from_numpy(membership) * own[:, None]
        counts = shares.sum(0)
        means = shares.T @ x / counts[:, None]
        deviations = x[:, None] - means
        full = torch.einsum("nk,nkd,nke->kde", shares, deviations, deviations) / counts[:, None, None]
        full = full + 1e-6 * torch.eye(3)
        variances = full.diagonal(dim1=-2, dim2=-1)
        expected = {
            "full": full,
            "tied": torch.einsum("k,kde->de", counts / counts.sum(), full),
            "diag": variances,
            "spherical": variances.mean(1),
        }[covariance_type]
        result = start(x, 4, structure, method=method, random_state=np.random.RandomState(1), sample_weight=weight)
        torch.testing.assert_close(result.weights, counts / counts.sum(), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.means, means, rtol=0, atol=1e-10)
        torch.testing.assert_close(result.covariances, expected, rtol=0, atol=1e-10)
        assert_equal(from_responsibilities(x, torch.from_numpy(membership), structure, sample_weight=weight), result)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sampled", [False, True])
def test_batches_start_where_the_full_batch_does(method, sampled, monkeypatch):
    if sampled:
        monkeypatch.setattr(starts, "_SAMPLE", 50)
        monkeypatch.setattr(starts, "_PER_COMPONENT", 1)
    monkeypatch.setattr(starts, "_CHUNK", 400)
    x, weight = blobs(), torch.arange(300).double() % 3 + 1
    states = [np.random.RandomState(3) for _ in range(2)]
    whole = begin(as_points(x, weight), "full", method=method)
    for given in (list(zip(x.split(41), weight.split(41), strict=True)), list(zip([x], [weight], strict=True))):
        assert_equal(begin(as_points(given), "full", method=method), whole)
    full = covariance_structure("full")
    for given, state in zip((x, [x[:200], x[200:]]), states, strict=True):
        start(as_points(given), 4, full, method=method, random_state=state)
    assert states[0].randint(2**31) == states[1].randint(2**31)


@pytest.mark.parametrize("method", ["kmeans", "k-means++"])
def test_seeds_come_from_a_sample_and_take_all_points(method, monkeypatch):
    """Clouds far apart: every one has a seed in the sample, and then all its points."""
    monkeypatch.setattr(starts, "_SAMPLE", 200)
    monkeypatch.setattr(starts, "_PER_COMPONENT", 50)
    sizes = []
    fit, draw = KMeans.fit, kmeans_plusplus
    monkeypatch.setattr(KMeans, "fit", lambda self, x, **rest: sizes.append(len(x)) or fit(self, x, **rest))
    monkeypatch.setattr("sklearn.cluster.kmeans_plusplus", lambda x, *a, **b: sizes.append(len(x)) or draw(x, *a, **b))
    labels = torch.arange(20_000) % 3
    x = 100.0 * labels[:, None] + torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    result = begin(x, "full", seed=1, method=method, n_components=3)
    expected = from_assignments(x, labels, 3, result.structure)
    assert_equal(result.permuted(result.means[:, 0].argsort()), expected, atol=1e-8)
    assert begin(x, "full", method=method, n_components=10).means.shape == (10, 2)
    assert sizes == [200, 500]


@pytest.mark.parametrize("method", ["kmeans", "k-means++", "random_from_data"])
def test_integer_weights_start_like_repetition(method):
    x, times = blobs(n=100), torch.arange(100) % 3
    weighted = begin(as_points(x, times), "full", method=method)
    assert_equal(begin(x.repeat_interleave(times, 0), "full", method=method), weighted)


@pytest.mark.parametrize("method", METHODS)
def test_a_start_is_the_same_far_from_the_origin(method):
    """Points on a grid, so that none is rounded there."""
    x = (blobs() * 256).round() / 256
    near, far = begin(x, "full", method=method), begin(x + 2.0**30, "full", method=method)
    torch.testing.assert_close(far.means - 2.0**30, near.means, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("method", METHODS)
def test_fewer_weighted_points_than_components_start(method):
    weight = torch.zeros(300).double()
    weight[:2] = 1
    result = begin(as_points(blobs(), weight), "full", method=method)
    assert result.means.shape == (4, 3)
    assert bool(result.precisions_cholesky.isfinite().all())


def test_a_sampled_start_leads_em_as_far(monkeypatch):
    """From a sample of a tenth, EM reaches what it reaches from all points, on average over ten seeds (2%)."""
    x = torch.from_numpy(synthetic(n=5000))
    reached = []
    for size in (50_000, 500):
        monkeypatch.setattr(starts, "_SAMPLE", size)
        monkeypatch.setattr(starts, "_PER_COMPONENT", 1)
        bounds = [fit_em(x, begin(x, "full", seed, n_components=10)).lower_bounds[-1] for seed in range(10)]
        reached.append(np.mean(bounds))
    assert reached[1] > reached[0] - 0.02 * abs(reached[0])


def test_seeds_have_a_metric():
    x = torch.tensor([[0.0, 0.0], [0.0, 9.0], [5.0, 0.0], [5.0, 9.0]]).double()
    seeds = x[[0, 3]]
    spherical = covariance_structure("spherical")
    for scale, means in [([1.0, 0.1], [[0.0, 4.5], [5.0, 4.5]]), ([0.1, 1.0], [[2.5, 0.0], [2.5, 9.0]])]:
        result = from_seeds(x, seeds, spherical, metric=torch.tensor(scale).double().diag())
        torch.testing.assert_close(result.means, torch.tensor(means).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_start_is_in_double_precision(dtype, method):
    result = begin(blobs().to(dtype), "full", method=method)
    assert result.means.dtype == result.covariances.dtype == result.weights.dtype == torch.float64
    assert bool(result.precisions_cholesky.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_fewer_points_than_components_are_refused(method):
    with pytest.raises(ValueError, match="Expected 4 points at least, one for each component; got 3"):
        begin(blobs()[:3], "full", method=method)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical", "tied"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimators", [(GaussianMixture, Reference), (BayesianGaussianMixture, BayesianReference)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_are_those_of_scikit_learn_from_every_start(covariance_type, method, estimators):
    if covariance_type == "tied" and method in ("k-means++", "random_from_data"):
        pytest.skip("scikit-learn's start is defective there")
    x = load_iris().data  # has two equal rows
    for means in (None, x[:3] + 0.1) if estimators[0] is GaussianMixture else (None,):
        for max_iter in (0, 1, 2, 5, 100):
            options = {"covariance_type": covariance_type, "init_params": method, "max_iter": max_iter}
            options |= {} if means is None else {"means_init": means}
            ours, theirs = (kind(n_components=3, random_state=1, **options).fit(x) for kind in estimators)
            assert ours.n_iter_ == theirs.n_iter_
            assert ours.converged_ == theirs.converged_ or max_iter == 0
            for name in ("weights_", "means_", "covariances_") + (("lower_bound_",) if max_iter else ()):
                np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)


def test_the_last_of_starts_without_a_step_is_kept_as_in_scikit_learn():
    x = load_iris().data
    options = {"n_components": 3, "init_params": "random", "max_iter": 0, "n_init": 3, "random_state": 0}
    np.testing.assert_allclose(GaussianMixture(**options).fit(x).means_, Reference(**options).fit(x).means_)


@pytest.mark.parametrize("options", [{"covariance_type": "tied"}, {"reg_covar": 0.0}])
def test_all_points_are_assigned_if_seeds_of_scikit_learn_are_degenerate(options):
    x = blobs()
    mixture = GaussianMixture(4, init_params="k-means++", max_iter=0, random_state=0, **options).fit(x)
    assert mixture.weights_.sum() == pytest.approx(1.0)
    assert mixture.score(x) > -10


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [{}, {"n_init": 3}, {"means_init": 1}, {"weights_init": 1}, {"precisions_init": 1}])
def test_fits_are_scikit_learn_s_from_every_start(covariance_type, method, given):
    x = (blobs(seed=1).numpy() * 8).round() / 8  # some points are equal
    x[150:160] = x[:10]
    shape = {"full": (4, 3, 3), "diag": (4, 3), "spherical": (4,)}[covariance_type]
    precisions = np.broadcast_to(np.eye(3), shape) if covariance_type == "full" else np.ones(shape)
    values = {"means_init": x[[1, 50, 100, 250]], "weights_init": np.arange(1, 5) / 10, "precisions_init": precisions}
    options = {name: values.get(name, value) for name, value in given.items()}
    for max_iter in (
        (1, 2, 5, 300) if "precisions_init" in given else (0, 1, 2, 5, 300)
    ):  # scikit-learn has an error there
        options |= {"covariance_type": covariance_type, "init_params": method, "max_iter": max_iter, "random_state": 3}
        ours, theirs = GaussianMixture(4, **options).fit(x), Reference(4, **options).fit(x)
        assert ours.n_iter_ == theirs.n_iter_
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
        # Of several starts that end at one optimum, rounding alone chooses the order of the components.
        order, other = (np.argsort(mixture.means_[:, 0]) for mixture in (ours, theirs))
        np.testing.assert_allclose(ours.means_[order], theirs.means_[other], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.weights_[order], theirs.weights_[other], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("covariance_type", ["full", "spherical"])
def test_every_start_serves_noise_and_noisy_svi(method, covariance_type):
    """Their first step assigns no points: from components as narrow as `reg_covar` they would not move."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(-2, 1, (80, 2)), rng.normal(2, 1, (60, 2))]
    options = {"init_params": method, "covariance_type": covariance_type, "random_state": 0}
    best = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(x).score(x)
    noise = np.full((140, 2), 0.3)
    under_noise = GaussianMixture(2, **options).fit(x, noise_covariance=noise)
    assert under_noise.score(x, noise_covariance=noise) > best - 0.5
    noisy = GaussianMixture(2, inference=SVI(batch_size=70, epochs=40), **options).fit(x)
    assert noisy.score(x) > best - 1.0  # in few steps
