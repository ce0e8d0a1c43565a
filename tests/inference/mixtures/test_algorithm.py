import inspect
import pickle
import warnings
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from latentmix.inference import EM, NUTS, SVI, GaussianMixture
from latentmix.inference.mixtures.algorithm import Algorithm, FitOptions

from tests.inference.mixtures.clouds import synthetic

OBJECTS = {"em": EM(), "svi": SVI(), "nuts": NUTS()}
SHORT = {"em": EM(), "svi": SVI(epochs=4), "nuts": NUTS(chains=1, draws=6, warmup=6)}


@pytest.fixture(scope="module")
def x():
    return synthetic(120, n_components=2)


def quietly(mixture, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mixture.fit(x, **options)


@pytest.mark.parametrize("word", OBJECTS)
def test_words_stand_for_the_defaults(word):
    assert GaussianMixture(2).inference == "em"
    algorithm = GaussianMixture(2, inference=word).algorithm
    assert type(algorithm) is type(OBJECTS[word])
    assert algorithm.get_params() == OBJECTS[word].get_params()


@pytest.mark.parametrize("word", ["em", "svi"])
def test_an_object_fits_as_its_word_does(x, word):
    by_word, by_object = (
        GaussianMixture(2, inference=inference, random_state=0).fit(x) for inference in (word, OBJECTS[word])
    )
    np.testing.assert_array_equal(by_word.means_, by_object.means_)
    assert by_word.lower_bounds_ == by_object.lower_bounds_


@pytest.mark.parametrize("algorithm", SHORT.values(), ids=str)
def test_fitting_leaves_the_object_as_it_is(x, algorithm):
    before = dict(vars(algorithm))
    mixture = quietly(GaussianMixture(2, inference=algorithm, random_state=0), x)
    assert mixture.inference is algorithm
    assert vars(algorithm) == before
    assert quietly(clone(mixture), x).lower_bounds_ == mixture.lower_bounds_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mixture)).predict(x), mixture.predict(x))


def test_options_are_set_through_the_estimator():
    mixture = GaussianMixture(2, inference=NUTS(draws=50))
    copy = clone(mixture).set_params(inference__draws=500, n_components=3)
    assert (copy.inference.draws, copy.n_components, mixture.inference.draws) == (500, 3, 50)
    assert copy.get_params()["inference__draws"] == 500
    assert copy.set_params(inference=SVI(), inference__epochs=7).inference.epochs == 7
    assert "draws=50" in repr(mixture)
    with pytest.raises(ValueError, match=r"Expected options of NUTS out of .*; got 'epochs'"):
        mixture.set_params(inference__epochs=3)


@pytest.mark.parametrize("word", OBJECTS)
def test_a_word_has_no_options_to_set(word):
    message = (
        rf"Expected an algorithm object to set inference__draws of; got inference='{word}': pass .*NUTS\(draws=\.\.\.\)"
    )
    mixture = GaussianMixture(2, inference=word)
    with pytest.raises(ValueError, match=message):
        mixture.set_params(inference__draws=500)
    assert mixture.inference == word
    for other in (SVI, None, "gibbs"):
        with pytest.raises(ValueError, match="Expected an algorithm object to set inference__draws of; got inference="):
            GaussianMixture(2).set_params(inference=other, inference__draws=5)
    with pytest.raises(ValueError, match="got 'draw', which none has"):
        mixture.set_params(inference__draw=5)


def test_grids_reach_into_the_object(x):
    grid = {"inference__epochs": [1, 12], "n_components": [1, 2]}
    search = GridSearchCV(GaussianMixture(2, inference=SVI(), random_state=0), grid, cv=2)
    quietly(search, x)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["n_components"] == 2
    assert search.best_estimator_.inference.epochs == search.best_params_["inference__epochs"]


def test_no_option_stands_in_two_places():
    estimator = set(inspect.signature(GaussianMixture).parameters)
    assert len(estimator) == 22
    assert not any(name.startswith(("svi_", "nuts_")) for name in estimator)
    own = {name for kind in (EM, SVI, NUTS) for name in inspect.signature(kind).parameters}
    assert own & estimator == {"tol"}  # of SVI another than EM's: nats that ten epochs gain


@pytest.mark.parametrize("algorithm", OBJECTS.values(), ids=str)
def test_parameter_objects_follow_scikit_learn(algorithm):
    parameters = inspect.signature(type(algorithm)).parameters
    for name, parameter in parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert getattr(algorithm, name) is parameter.default
    assert set(algorithm.get_params()) == set(parameters)
    assert repr(algorithm) == f"{type(algorithm).__name__}()"
    copy = clone(algorithm)
    assert copy is not algorithm
    assert copy.get_params() == algorithm.get_params()
    assert repr(pickle.loads(pickle.dumps(algorithm))) == repr(algorithm)


def test_representations_show_what_was_chosen():
    assert repr(NUTS(draws=50, chains=4)) == "NUTS(draws=50)"
    assert repr(SVI(guide=AutoNormal, batch_size=8)) == "SVI(guide=AutoNormal, batch_size=8)"
    page = GaussianMixture(2, inference=NUTS(draws=50))._repr_html_()
    assert "draws=50" in page


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (SVI(epochs=0), "Expected epochs of SVI to be a whole number of at least 1; got 0"),
        (SVI(epochs=True), "Expected epochs of SVI to be a whole number of at least 1; got True"),
        (SVI(tol=float("nan")), "Expected tol of SVI to be a number of at least 0; got nan"),
        (SVI(batch_size=0), "Expected batch_size of SVI to be a whole number of at least 1, or None; got 0"),
        (NUTS(target_accept=1.0), "Expected target_accept of NUTS to be a number above 0 and below 1; got 1.0"),
        (NUTS(priors=[1]), r"Expected priors of NUTS to be a mapping of weights, .* or None; got \[1\]"),
    ],
)
def test_options_out_of_range_are_named(algorithm, message):
    with pytest.raises(ValueError, match=message):
        algorithm.check_params()


def test_unknown_options_are_refused_and_none_is_set():
    algorithm = NUTS()
    with pytest.raises(ValueError, match=r"Expected options of NUTS out of chains, draws, .*; got 'epochs'"):
        algorithm.set_params(draws=3, epochs=3)
    assert algorithm.draws == NUTS().draws
    with pytest.raises(ValueError, match="Expected options of EM out of none, as it has no options; got 'tol'"):
        EM().set_params(tol=1.0)


@pytest.mark.parametrize(
    ("algorithm", "option"),
    [(kind(**{name: -1}), name) for kind in (SVI, NUTS) for name in kind().get_params() if name != "guide"],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_options_out_of_range_are_refused_before_any_work(x, algorithm, option, monkeypatch):
    monkeypatch.setattr(type(algorithm), "fit", None)
    with pytest.raises(ValueError, match=f"{option}|Expected a function"):
        GaussianMixture(2, inference=algorithm).fit(x)


def test_the_direct_fit_is_the_estimator_s(x):
    points, start = torch.from_numpy(x), GaussianMixture(2, random_state=0).fit(x).parameters_
    given = {
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": start.structure.precisions(start.precisions_cholesky),
    }
    for algorithm in (EM(), SVI(epochs=5)):
        direct = algorithm.fit(points, start, FitOptions(reg_covar=1e-3))
        by_estimator = quietly(GaussianMixture(2, inference=algorithm, reg_covar=1e-3, **given), x)
        np.testing.assert_allclose(direct.lower_bounds, by_estimator.lower_bounds_, rtol=1e-9)
        assert direct.lower_bound == pytest.approx(by_estimator.lower_bound_, rel=1e-9)


class OneStep(Algorithm):
    """An algorithm of a user's own."""

    name = "one_step"
    accepts = EM.accepts

    def __init__(self, *, tempered: float = 1.0) -> None:
        self.tempered = tempered

    def fit(self, points, start, options=FitOptions()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return EM().fit(points, start, FitOptions(reg_covar=options.reg_covar, max_iter=1))


def test_an_algorithm_of_one_s_own(x):
    mixture = GaussianMixture(2, inference=OneStep(), random_state=0, n_init=2)
    assert mixture.fit(x, sample_weight=np.ones(len(x))).n_iter_ == 1
    assert clone(mixture).set_params(inference__tempered=0.5).inference.tempered == 0.5


def test_priors_and_guides_are_kept_by_clone():
    priors = {"means": dist.Normal(0.0, 10.0)}
    svi = SVI(guide=partial(AutoNormal, init_scale=0.1), priors=priors)
    copy = clone(GaussianMixture(2, inference=svi)).inference
    assert copy is not svi
    assert copy.guide.keywords == {"init_scale": 0.1}
    assert copy.priors["means"].scale == 10.0
