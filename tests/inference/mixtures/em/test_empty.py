import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference import GaussianMixture
from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.empty import reset_empty
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import ALL_TYPES, TYPES, begin, blobs


def test_a_dead_component_is_reset():
    x = blobs()
    first = begin(x, "full")
    means = first.means.clone()
    means[2] = 1e4
    dead = MixtureParameters(first.weights, means, first.covariances, first.structure)
    with pytest.warns(ConvergenceWarning, match="were reset"):
        result = fit_em(x, dead)
    assert result.n_reseeded >= 1
    assert result.segments[:2] == (0, 1)
    assert result.parameters.weights.min() > 1e-3
    assert result.parameters.means.abs().max() < 100


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("dead", [1, 2, 3])
def test_the_bound_never_falls_within_a_segment(covariance_type, dead):
    x = blobs(spread=0.3)
    first = begin(x, covariance_type, reg_covar=0.0)
    far = torch.arange(4)[:, None] < dead
    gone = MixtureParameters(first.weights, first.means + 1e4 * far, first.covariances, first.structure)
    with pytest.warns(ConvergenceWarning, match=f"{dead} empty components were reset"):
        result = fit_em(x, gone, reg_covar=0.0, tol=0.0, max_iter=60)
    assert result.segments == (0, 1)
    assert result.n_reseeded == dead
    assert result.n_repaired == result.n_floored == 0
    for bounds in np.split(result.lower_bounds, result.segments[1:]):
        assert not len(bounds) > 1 or np.diff(bounds).min() > -1e-9
    assert len(np.split(result.lower_bounds, result.segments[1:])[1]) == 59


def test_a_component_is_not_reset_to_a_point_without_weight():
    x = torch.cat([blobs(), torch.full((1, 3), 60.0, dtype=torch.float64)])
    weight = torch.ones(len(x)).double()
    weight[-1] = 0
    first = begin(x[:-1], "full")
    empty = torch.tensor([False, True, False, False])
    for given, expected in [(as_points(x), True), (as_points(x, weight), False)]:
        reset = reset_empty(ExactEStep(given), first, empty)
        assert torch.equal(reset.means[1], x[-1]) == expected
        assert bool((x == reset.means[1]).all(1).any())


@pytest.mark.parametrize("inference", ["em", "svi"])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_component_claims_no_place(inference, covariance_type, dtype):
    """Six components for five places: what lies between two of them belongs to the nearer one."""
    places = np.random.default_rng(0).integers(1, 6, 500)[:, None].astype(dtype)
    mixture = GaussianMixture(6, inference=inference, covariance_type=covariance_type, random_state=0)
    if covariance_type == "tied":
        mixture.fit(places)
    else:
        with pytest.warns(ConvergenceWarning, match="1 empty components"):
            mixture.fit(places)
    between = np.array([[1.4], [1.6], [2.4], [3.6], [4.4], [4.6], [0.0], [9.0]], dtype=dtype)
    claimed = mixture.means_[mixture.predict(between)].ravel()
    np.testing.assert_allclose(claimed, [1, 2, 2, 4, 4, 5, 1, 5], atol=1e-3)
    assert mixture.weights_.sum() == pytest.approx(1.0)


def test_an_empty_component_claims_no_place_where_values_are_missing():
    rng = np.random.default_rng(0)
    x = np.repeat(np.arange(5.0), 60)[:, None] * np.ones(2)
    x[rng.random(x.shape) < 0.1] = np.nan
    x = x[~np.isnan(x).all(1)]
    mixture = GaussianMixture(7, missing="marginalize", random_state=0, max_iter=300, tol=1e-8).fit(x)
    assert mixture.covariances_.diagonal(axis1=1, axis2=2).max() < 0.5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e-5, 1.0])
@pytest.mark.parametrize("max_iter", [1, 2, 30])
def test_no_covariance_is_narrower_than_the_floor(covariance_type, spread, max_iter):
    x = 0.3 + spread * np.repeat([[0.0, 0.0], [1.0, 1.0]], 150, axis=0)
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=max_iter).fit(x)
    narrowest = torch.linalg.eigvalsh(mixture.parameters_.expanded_covariances()).min()
    assert float(narrowest) >= 1e-6 * (1 - 1e-9)
    # No density of covariances at the floor is higher at a point.
    assert max(mixture.lower_bound_, mixture.score(x)) <= -np.log(2 * np.pi * 1e-6) + 1e-9


PLACES = np.random.RandomState(0).randint(1, 6, 500)[:, None].astype(float)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    "options", [{}, {"inference": "svi"}, {"missing": "marginalize"}, {"dtype": "float32"}, {"max_iter": 1}]
)
def test_a_component_without_points_claims_none(covariance_type, options):
    """Six components at five places: what lies between belongs to the nearest place, as in scikit-learn."""
    mixture = GaussianMixture(6, covariance_type=covariance_type, random_state=0, **options)
    if covariance_type == "tied":
        mixture.fit(PLACES)
    else:
        with pytest.warns(ConvergenceWarning, match="1 empty components"):
            mixture.fit(PLACES)
    between = np.array([[0.7], [1.4], [2.4], [3.6], [4.6], [5.3]])
    nearest = mixture.means_[mixture.predict(between)]
    np.testing.assert_allclose(nearest, [[1], [1], [2], [4], [5], [5]], atol=1e-4)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_component_without_points_claims_none_in_batches_and_under_noise():
    for x, options in (
        ([PLACES[:200], PLACES[200:]], {}),
        (PLACES, {"noise_covariance": np.full((1, 1), 1e-6)}),
        (PLACES, {"sample_weight": np.arange(500) % 3}),
    ):
        with pytest.warns(ConvergenceWarning, match="1 empty components"):
            mixture = GaussianMixture(6, random_state=0).fit(x, **options)
        nearest = mixture.means_[mixture.predict([[1.4], [4.6]])]
        np.testing.assert_allclose(nearest, [[1], [5]], atol=1e-3)


def test_a_component_that_ends_empty_warns():
    means = np.array([[-1.0], [1.0], [1e6]])
    x = np.random.RandomState(0).randn(100, 1)
    with pytest.warns(ConvergenceWarning, match="1 empty components"):
        mixture = GaussianMixture(3, means_init=means, random_state=0, max_iter=1).fit(x)
    assert mixture.weights_[2] < 1e-12
    assert not bool((mixture.predict(x * 1e3) == 2).any())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("max_iter", [0, 1, 2, 10])
@pytest.mark.parametrize("place", [0.3, 1e6 / 3, -1e-5])
def test_the_bound_of_one_place_is_that_of_a_density(covariance_type, max_iter, place):
    x = np.full((300, 2), place)
    highest = -np.log(2 * np.pi * 1e-6)
    for given, options in (
        (x, {}),
        ([x[:100], x[100:]], {}),
        (x, {"missing": "marginalize"}),
        (x, {"init_params": "k-means++"}),
    ):
        if max_iter == 0 and "init_params" in options:
            continue  # weights of one point each, as scikit-learn has them there
        mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=max_iter, **options).fit(
            given
        )
        assert mixture.lower_bound_ <= highest + 1e-6
        assert mixture.score(given) == pytest.approx(highest, abs=1e-6)
        variances = mixture.parameters_.expanded_covariances().diagonal(dim1=-2, dim2=-1)
        assert float(variances.min()) > 1e-6 * (1 - 1e-9)
