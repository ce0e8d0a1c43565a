import io
import pickle
import warnings
from contextlib import redirect_stdout
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGaussian,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from latentmix.inference.mixtures.em.em import EMResult
from latentmix.inference.mixtures.em.missing import log_joint_with_missing
from latentmix.inference.mixtures.em.stepwise import StepwiseEM
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts.fit import NUTS, MixtureNUTSResult
from latentmix.inference.mixtures.starts import EstimatorStarts
from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult

from tests.inference.mixtures.clouds import TYPES, synthetic


@pytest.fixture(scope="module")
def x():
    return synthetic(400, n_components=4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_em_step_matches_scikit_learn(x, covariance_type):
    first = Reference(4, covariance_type=covariance_type, max_iter=0, random_state=2).fit(x)
    given = {
        "weights_init": np.full(4, 0.25),
        "means_init": first.means_ + 0.1,
        "precisions_init": 2 * first.precisions_,
        "covariance_type": covariance_type,
        "max_iter": 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours, theirs = GaussianMixture(4, **given).fit(x), Reference(4, **given).fit(x)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bound_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data"])
def test_integer_weights_equal_repeated_points(x, covariance_type, init_params):
    """Of the whole fit, its start included; the order of the points does not matter to it."""
    state = np.random.RandomState(0)
    counts = state.randint(4, size=len(x))
    order = state.permutation(len(x))
    repeated = x.repeat(counts, axis=0)
    options = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 0}
    weighted = GaussianMixture(4, **options).fit(x[order], sample_weight=counts[order])
    ours = GaussianMixture(4, **options).fit(repeated)
    assert counts.min() == 0
    assert weighted.n_iter_ == ours.n_iter_ > 1
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(ours, name), rtol=1e-10, atol=1e-10)
    assert weighted.score(x, sample_weight=counts) == pytest.approx(ours.score(repeated), abs=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_missing_values_are_marginalized(x, covariance_type):
    x = x[:200]
    holes = np.where(np.random.RandomState(0).uniform(size=x.shape) < 0.15, np.nan, x)
    labels = np.full(len(x), -1)
    labels[:100] = GaussianMixture(4, random_state=0).fit_predict(x)[:100]
    mixture = GaussianMixture(4, covariance_type=covariance_type, missing="marginalize", random_state=0, tol=1e-5)
    fitted = mixture.fit(holes, labels=labels)
    joint = log_joint_with_missing(torch.from_numpy(holes), fitted.parameters_)
    np.testing.assert_allclose(fitted.score_samples(holes), joint.logsumexp(1).numpy(), rtol=1e-10)
    assert fitted.lower_bound_ == pytest.approx(fitted.score(holes), abs=1e-4)
    complete = GaussianMixture(4, covariance_type=covariance_type, tol=1e-5).fit(x, labels=labels)
    assert complete.score(x) - 0.1 < fitted.score(x) <= complete.score(x) + 1e-3
    with pytest.raises(ValueError, match=r"contains NaN: take missing=.marginalize., or drop its rows"):
        GaussianMixture(4).fit(holes)


def test_a_prior_widens_the_covariances(x):
    plain = GaussianMixture(4, random_state=0, reg_covar=0.0).fit(x)
    wide = GaussianMixture(4, random_state=0, reg_covar=0.0, covariance_prior=20 * np.eye(3)).fit(x)
    assert (np.linalg.det(wide.covariances_) > np.linalg.det(plain.covariances_)).all()
    with pytest.raises(ValueError, match="Expected a covariance_prior beside degrees_of_freedom_prior"):
        GaussianMixture(4, degrees_of_freedom_prior=5.0).fit(x)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_partial_fit_approaches_the_whole_fit(x, covariance_type):
    large = synthetic(4000, n_components=4)
    whole = GaussianMixture(4, covariance_type=covariance_type, random_state=0).fit(large)
    learner = GaussianMixture(4, covariance_type=covariance_type, random_state=0)
    for batch in np.array_split(large, 20):
        learner.partial_fit(batch)
    assert isinstance(learner.result_, StepwiseEM)
    assert learner.n_iter_ == len(learner.lower_bounds_) == 20
    assert learner.score(large) > whole.score(large) - 0.05
    assert learner.lower_bound_ == pytest.approx(learner.score(large), abs=0.1)
    going_on = whole.partial_fit(large[:50]).partial_fit(large[50:60])
    assert going_on.n_iter_ == 3
    assert going_on.score(large) > learner.score(large) - 0.05
    with pytest.raises(ValueError, match="2 features"):
        learner.partial_fit(x[:, :2])


def test_partial_fit_resumes_from_a_mixture_set_by_hand():
    batches = np.array_split(synthetic(900, n_components=2), 3)
    whole = GaussianMixture(2, random_state=0).partial_fit(batches[0])
    by_hand = GaussianMixture(2, random_state=9)
    by_hand.parameters_ = whole.parameters_
    for learner in (whole, by_hand):
        learner.partial_fit(batches[1] + 100)
    np.testing.assert_allclose(by_hand.means_, whole.means_, rtol=1e-5)  # from moments of the mixture, with reg_covar
    assert by_hand.n_iter_ == 2
    assert np.isfinite(by_hand.lower_bound_)


@pytest.mark.parametrize(
    "options",
    [
        {"inference": "svi"},
        {"inference": "nuts"},
        {"missing": "marginalize"},
        {"covariance_prior": np.eye(3)},
        {"degrees_of_freedom_prior": 5.0},
    ],
)
def test_partial_fit_refuses_options_that_need_all_points(x, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"Expected {name} at its default for partial_fit; got another: use fit"):
        GaussianMixture(4, **options).partial_fit(x)


def test_nuts_gives_draws_around_the_fit_of_em():
    x = synthetic(80, n_components=2)
    nuts = NUTS(chains=2, draws=60, warmup=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(2, covariance_type="spherical", inference=nuts, random_state=0).fit(x)
    assert isinstance(fitted.result_, MixtureNUTSResult)
    assert fitted.posterior_.sites["means"].shape == (2, 60, 2, 3)
    assert fitted.n_iter_ == 120
    assert len(fitted.lower_bounds_) == 120
    assert fitted.lower_bound_ == pytest.approx(np.mean(fitted.lower_bounds_))
    em = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(x)
    assert em.score(x) - 0.1 < fitted.score(x) < em.score(x) + 1e-6
    np.testing.assert_allclose(fitted.means_, fitted.posterior_.sites["means"].mean((0, 1)).numpy())
    assert fitted.predict_proba(x).shape == (80, 2)


def test_results_and_posteriors_by_algorithm(x):
    em = GaussianMixture(4, random_state=0).fit(x)
    assert isinstance(em.result_, EMResult)
    assert not hasattr(em, "posterior_")
    svi = GaussianMixture(4, random_state=0, inference=SVI(epochs=5, guide=AutoNormal, priors={})).fit(x[:80])
    assert isinstance(svi.result_, MixtureSVIResult)
    assert svi.posterior_.sites["weights"].shape == (1, 1000, 4)
    with pytest.raises(AttributeError, match="Expected a fit with inference='nuts'"):
        _ = em.posterior_


def test_verbose_prints_starts_and_iterations(x):
    result = {}
    for verbose in (0, 1, 2):
        with redirect_stdout(io.StringIO()) as output:
            GaussianMixture(4, n_init=2, verbose=verbose, verbose_interval=1, random_state=0).fit(x)
        result[verbose] = output.getvalue().splitlines()
    assert result[0] == []
    assert result[1][:2] == ["Initialization 0", "  Iteration 1"]
    assert result[1].count("Initialization converged.") == 2
    assert len(result[2]) == len(result[1])
    assert "ll change" in result[2][1]
    assert "lower bound" in result[2][-1]


def test_fewer_distinct_points_than_components_need_a_floor():
    x = np.repeat([[0.0, 1.0], [2.0, 3.0]], 10, axis=0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(3, reg_covar=0.0).fit(x)
    weight = np.repeat([1.0, 0.0], 10)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(2, reg_covar=0.0).fit(x, sample_weight=weight)
    with pytest.warns(ConvergenceWarning):
        assert np.isfinite(GaussianMixture(3, random_state=0).fit(x).score(x))


def test_labels_may_be_integers_of_any_kind(x):
    labels = GaussianMixture(4, random_state=0).fit_predict(x)
    expected = GaussianMixture(4).fit(x, labels=labels).means_
    for same in (labels.tolist(), labels.astype(np.int8), labels.astype(np.uint16), labels[::-1].copy()[::-1]):
        np.testing.assert_array_equal(GaussianMixture(4).fit(x, labels=same).means_, expected)


@pytest.mark.parametrize("changed", [{"n_components": 3}, {"covariance_type": "diag"}])
def test_a_warm_start_refuses_a_mixture_of_another_kind(x, changed):
    fitted = GaussianMixture(4, warm_start=True, random_state=0).fit(x)
    with pytest.raises(ValueError, match=r"of the last fit, \(4, 'full'\), with warm_start=True"):
        fitted.set_params(**changed).fit(x)


_REFUSED = [
    ({"n_components": 0}, {}, "'n_components' parameter of GaussianMixture must be an int in the range"),
    ({"covariance_type": "round"}, {}, "'covariance_type' parameter of GaussianMixture must be a str among"),
    ({"inference": "gibbs"}, {}, "'inference' parameter of GaussianMixture must be a str among"),
    ({"tol": -1.0}, {}, "'tol' parameter of GaussianMixture must be a float in the range"),
    ({"init_params": "guess"}, {}, "'init_params' parameter"),
    ({"missing": "drop"}, {}, "'missing' parameter"),
    ({"dtype": "float16"}, {}, "'dtype' parameter"),
    ({"dtype": torch.float16}, {}, "'dtype' parameter"),
    ({"dtype": torch.int64}, {}, "'dtype' parameter"),
    ({"noise_candidates": 0}, {}, "'noise_candidates' parameter"),
    ({"weights_init": np.ones(4)}, {}, "'weights' should be normalized"),
    ({"weights_init": np.full(4, np.nan)}, {}, "Expected the parameter 'weights' to be finite"),
    ({"means_init": np.ones((4, 2))}, {}, r"'means' should have the shape of \(4, 3\), but got \(4, 2\)"),
    ({"precisions_init": -np.ones((4, 3, 3))}, {}, "'full precision' should be symmetric, positive-definite"),
    ({"n_components": 500}, {}, "Expected n_samples >= n_components but got n_components = 500"),
    ({}, {"sample_weight": np.zeros(400)}, "Expected sample_weight not to be all zero"),
    ({}, {"sample_weight": -np.ones(400)}, "Expected sample_weight finite and not negative; got -1.0 in row 0"),
    ({}, {"sample_weight": np.ones(3)}, r"Expected sample_weight of shape \(400,\); got \(3,\)"),
    ({"inference": "svi"}, {"sample_weight": np.ones(400)}, "Expected no sample_weight for inference='svi'"),
    ({"inference": "nuts"}, {"sample_weight": np.ones(400)}, "Expected no sample_weight for inference='nuts'"),
    ({"inference": "svi"}, {"noise_covariance": np.ones((400, 3))}, "Expected no noise_covariance"),
    ({"inference": "svi", "missing": "marginalize"}, {}, "Expected no missing='marginalize'"),
    ({"inference": "svi", "covariance_prior": np.eye(3)}, {}, "Expected no covariance_prior"),
    ({"distributed": True}, {}, "Expected torch.distributed to be initialised"),
    ({"inference": SVI(epochs=0)}, {}, "Expected epochs of SVI to be a whole number"),
    ({"inference": NUTS(draws=0)}, {}, "Expected draws of NUTS to be a whole number"),
    ({"inference": NUTS}, {}, "'inference' parameter of GaussianMixture must be a str among"),
    ({}, {"labels": np.full(400, "a")}, "Expected integer labels, -1 where unknown; got values of dtype <U1"),
    ({}, {"labels": np.zeros(400)}, "Expected integer labels of shape"),
    ({}, {"labels": np.full(400, 4)}, "Expected labels in -1 ... 3"),
    ({}, {"labels": np.zeros(3, dtype=int)}, "Expected integer labels of shape"),
]


@pytest.mark.parametrize(("options", "fit_options", "message"), _REFUSED)
def test_bad_options_are_refused(x, options, fit_options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"n_components": 4, **options}).fit(x, **fit_options)


@pytest.mark.parametrize(
    "guide", [AutoIAFNormal, AutoLaplaceApproximation, AutoStructured, partial(AutoGaussian), dict]
)
def test_unsuitable_guides_are_refused(x, guide, monkeypatch):
    monkeypatch.setattr(EstimatorStarts, "draw", None)  # before any work
    message = "Expected a guide out of AutoDelta, AutoNormal, AutoDiagonalNormal, .* or a class of your own; got"
    with pytest.raises(ValueError, match=message):
        GaussianMixture(4, inference=SVI(guide=guide, priors={})).fit(x)


class OwnGuide(AutoNormal):
    """A guide that is none of Pyro's."""


@pytest.mark.parametrize("guide", [type("Own", (AutoDelta,), {}), partial(AutoDelta)])
def test_a_modified_point_mass_is_refused(x, guide):
    with pytest.raises(ValueError, match="Expected AutoDelta itself"):
        GaussianMixture(4, inference=SVI(guide=guide)).fit(x)


@pytest.mark.parametrize("guide", [AutoDiagonalNormal, AutoLowRankMultivariateNormal, OwnGuide, partial(AutoNormal)])
def test_suitable_guides_give_draws(x, guide):
    fitted = GaussianMixture(2, inference=SVI(guide=guide, priors={}, epochs=3), random_state=0).fit(x[:50])
    assert fitted.posterior_.sites["means"].shape == (1, 1000, 2, 3)


@pytest.mark.parametrize("inference", [SVI, NUTS])
@pytest.mark.parametrize(
    ("name", "prior", "message"),
    [
        ("means", dist.Delta(torch.tensor(0.0)), "Expected a prior of means with a density; got Delta"),
        ("scales", dist.Delta(torch.ones(3), event_dim=1), "Expected a prior of scales with a density; got Delta"),
        ("means", dist.Poisson(1.0), "Expected a prior on the real numbers, .*; got one on IntegerGreaterThan"),
        ("scales", dist.Normal(0.0, 1.0), "Expected a prior of scales on positive numbers"),
        ("means", dist.Normal(torch.zeros(2), 1.0), r"Expected a prior of shape \(2, 3\) for means; got \(2,\)"),
        ("location", dist.Normal(0.0, 1.0), "Expected priors of weights, means, scales, correlations; got one of 'loc"),
    ],
)
def test_unsuitable_priors_are_refused(x, inference, name, prior, message, monkeypatch):
    monkeypatch.setattr(EstimatorStarts, "draw", None)  # before any work
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, inference=inference(priors={name: prior})).fit(x)


@pytest.mark.parametrize("inference", [SVI, NUTS])
def test_a_prior_without_density_at_the_start_is_refused(x, inference):
    with pytest.raises(ValueError, match="Expected a prior of means with density at the start; got one on other"):
        GaussianMixture(2, inference=inference(priors={"means": dist.HalfNormal(1.0)}), random_state=0).fit(x)


@pytest.mark.parametrize(
    ("covariance_type", "prior", "message"),
    [
        ("full", 0.1, r"of shape \(3, 3\) for full covariances; got \(\): make one such as 0.1 \* numpy.eye\(3\)"),
        ("tied", np.ones(3), r"of shape \(3, 3\) for tied covariances; got \(3,\): make one such as 0.1 \* numpy.eye"),
        ("diag", 0.1, r"of shape \(3,\) for diag covariances; got \(\): make one such as numpy.full\(3, 0.1\)"),
        ("spherical", torch.eye(3), r"of shape \(\) for spherical covariances; got \(3, 3\): make one such as 0.1"),
    ],
)
def test_a_covariance_prior_of_another_shape_is_refused(x, covariance_type, prior, message, monkeypatch):
    monkeypatch.setattr(EstimatorStarts, "draw", None)
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, covariance_type=covariance_type, covariance_prior=prior).fit(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degrees_of_freedom_prior": 3.0}, "Expected a covariance_prior beside degrees_of_freedom_prior; got None"),
        ({"covariance_prior": np.eye(3), "degrees_of_freedom_prior": 2.0}, "Expected degrees_of_freedom_prior > 2"),
        ({"covariance_prior": -np.eye(3)}, "Expected covariance_prior to be finite and positive definite"),
    ],
)
def test_an_improper_covariance_prior_is_refused(x, options, message, monkeypatch):
    monkeypatch.setattr(EstimatorStarts, "draw", None)  # before any work
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, **options).fit(x)


def test_draws_of_a_guide_are_made_once(x):
    options = {"inference": SVI(guide=AutoNormal, priors={}, epochs=3), "random_state": 0}
    fitted = GaussianMixture(2, **options).fit(x[:50])
    drawn = fitted.posterior_
    assert fitted.posterior_ is drawn
    loaded = pickle.loads(pickle.dumps(fitted))
    assert "posterior" not in vars(loaded.result_)
    for again in (loaded, clone(fitted).fit(x[:50])):
        assert torch.equal(again.posterior_.sites["means"], drawn.sites["means"])
    assert not hasattr(clone(fitted), "posterior_")
    other = clone(fitted).set_params(random_state=1).fit(x[:50])
    assert not torch.equal(other.posterior_.sites["means"], drawn.sites["means"])
    assert fitted.fit(x[:60]).posterior_ is not drawn


@pytest.mark.parametrize(
    "options",
    [
        {"max_iter": 1, "tol": 0.0},
        {"inference": SVI(epochs=2)},
        {"inference": NUTS(chains=1, draws=4, warmup=2)},
    ],
)
def test_warnings_point_at_the_caller(x, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GaussianMixture(2, covariance_type="diag", random_state=0, **options).fit(x[:50])
    result = [each for each in caught if issubclass(each.category, ConvergenceWarning)]
    assert result
    assert {each.filename for each in result} == {__file__}
