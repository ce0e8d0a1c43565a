import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.experiments.runs.artifacts import load_tree, save_tree
from latentmix.experiments.runs.mixture_draws import draws_state, load_draws
from latentmix.experiments.runs.mixture_state import Unsaved, load_mixture, mixture_state
from latentmix.inference import EM, NUTS, SVI, GaussianMixture
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.models.mixture.covariances import Matrices, covariance_structure

from tests.inference.mixtures.clouds import synthetic

PRIORS = {
    "means": dist.Normal(torch.zeros(3), 10.0),
    "scales": dist.HalfNormal(torch.ones(3)).to_event(1),
    "weights": dist.Dirichlet(torch.full((2,), 3.0)),
}
MIXTURES = {
    "word": GaussianMixture(2, inference="svi"),
    "EM": GaussianMixture(
        2, inference=EM(), covariance_prior=np.eye(3), dtype=torch.float32, means_init=[[0.0] * 3] * 2
    ),
    "SVI": GaussianMixture(
        2,
        inference=SVI(
            guide=partial(AutoNormal, init_scale=0.1),
            optimizer=partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.9)),
            scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=3),
            epochs=5,
            priors=PRIORS,
        ),
    ),
    "NUTS": GaussianMixture(2, inference=NUTS(chains=1, draws=4, warmup=3, priors=PRIORS), device="cpu"),
}


def fitted(mixture: GaussianMixture) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.set_params(random_state=0, covariance_type="full").fit(synthetic(60, n_components=2))


def fitted_with(**options) -> GaussianMixture:
    """A fitted mixture, with options that are set afterwards."""
    return fitted(GaussianMixture(2)).set_params(**options)


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_a_mixture_is_saved_whole(mixture: GaussianMixture, tmp_path: Path) -> None:
    mixture = fitted(mixture)
    save_tree(tmp_path / "mixture", mixture_state(mixture))
    loaded = load_mixture(load_tree(tmp_path / "mixture"))
    x = synthetic(20, n_components=2)
    np.testing.assert_allclose(loaded.predict_proba(x), mixture.predict_proba(x), rtol=1e-9, atol=1e-15)
    assert (loaded.n_iter_, loaded.lower_bound_) == (mixture.n_iter_, mixture.lower_bound_)
    np.testing.assert_array_equal(loaded.covariances_, mixture.covariances_)
    assert repr(mixture_state(loaded)["options"]) == repr(mixture_state(mixture)["options"])
    assert type(loaded.algorithm) is type(mixture.algorithm)


def test_a_loaded_algorithm_fits_as_the_saved_one() -> None:
    mixture = fitted(MIXTURES["SVI"])
    loaded = load_mixture(mixture_state(mixture))
    algorithm = loaded.inference
    assert isinstance(algorithm, SVI)
    assert algorithm.optimizer.keywords == {"lr": 0.05, "betas": [0.8, 0.9]}  # type: ignore[union-attr]
    assert algorithm.priors is not None
    assert algorithm.priors["scales"].event_shape == (3,)
    assert fitted(loaded).lower_bounds_ == mixture.lower_bounds_


def make(leaves):
    return torch.optim.SGD(leaves, 0.1)


@pytest.mark.parametrize(
    ("algorithm", "option", "description"),
    [
        (SVI(optimizer=make), "optimizer", "test_mixture_state.make"),
        (SVI(guide=type("Own", (AutoNormal,), {})), "guide", "Own"),
        (SVI(optimizer=lambda leaves: torch.optim.SGD(leaves, 0.1)), "optimizer", "<lambda>"),
    ],
    ids=["function", "local class", "lambda"],
)
def test_an_option_that_a_file_cannot_hold_is_named_and_not_lost_in_silence(algorithm, option, description) -> None:
    loaded = load_mixture(mixture_state(fitted_with(inference=algorithm)))
    x = synthetic(20, n_components=2)
    assert np.isfinite(loaded.score(x))
    unsaved = getattr(loaded.inference, option)
    assert isinstance(unsaved, Unsaved)
    assert description in repr(unsaved)
    with pytest.raises(ValueError, match=r"Expected an option that a file holds; got .*: set it"):
        loaded.fit(x)
    assert repr(unsaved) in repr(loaded.set_params(random_state=0).inference)


def test_a_class_that_is_not_imported_is_needed_for_another_fit_alone() -> None:
    state = mixture_state(fitted(GaussianMixture(2, inference=SVI(optimizer=torch.optim.Adam, epochs=3))))
    state["options"]["inference"]["options"]["optimizer"] = {"class": "nowhere.Adam", "keywords": {"lr": 0.1}}
    loaded = load_mixture(state)
    assert repr(loaded.inference.optimizer) == "Unsaved('nowhere.Adam')"
    assert np.isfinite(loaded.score(synthetic(20, n_components=2)))


@pytest.mark.parametrize(
    "prior",
    [
        dist.Uniform(-10.0, 10.0),
        dist.LKJCholesky(3, 2.0),
        dist.Gamma(2.0, 3.0),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        dist.LogNormal(0.0, 1.0),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_priors_are_saved(prior) -> None:
    mixture = fitted_with(inference=SVI(priors={"means": prior}))
    loaded = load_mixture(mixture_state(mixture)).inference.priors["means"]
    assert type(loaded) is type(prior)
    value = prior.sample()
    torch.testing.assert_close(loaded.log_prob(value), prior.log_prob(value))


class Powered(dist.Normal):
    """A distribution with an option that is no parameter."""

    def __init__(self, loc, scale, power=2.0):
        super().__init__(loc, scale)
        self.power = power


class Hidden(dist.Normal):
    """A distribution that does not give back an option."""

    def __init__(self, loc, scale, power=2.0):
        super().__init__(loc, scale)
        self._power = power


def prior_of(loaded: GaussianMixture):
    return loaded.inference.priors["means"]


def with_prior(prior) -> GaussianMixture:
    return load_mixture(mixture_state(fitted_with(inference=SVI(priors={"means": prior}))))


def test_options_of_priors_that_are_no_parameters_are_saved_or_named() -> None:
    assert prior_of(with_prior(dist.StableWithLogProb(1.5, 0.5, 1.0, 0.0, coords="S"))).coords == "S"
    assert prior_of(with_prior(Powered(0.0, 1.0, power=3.0))).power == 3.0
    assert isinstance(prior_of(with_prior(Hidden(0.0, 1.0, power=3.0))), Unsaved)


def test_an_object_around_one_that_is_not_imported_is_unsaved() -> None:
    state = mixture_state(fitted_with(inference=SVI(priors={"means": dist.FoldedDistribution(dist.Normal(0.0, 1.0))})))
    prior = state["options"]["inference"]["options"]["priors"]["mapping"]["means"]
    prior["keywords"]["base_dist"]["distribution"] = "nowhere.Normal"
    assert isinstance(prior_of(load_mixture(state)), Unsaved)


@pytest.mark.parametrize(
    "optimizer",
    [
        pyro.optim.PyroOptim(make, {}),
        pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1}),
        partial(torch.optim.Adam, lr=make),
    ],
    ids=["factory", "schedule", "nested"],
)
def test_an_optimizer_that_a_file_cannot_hold_whole_is_unsaved_as_a_whole(optimizer) -> None:
    loaded = load_mixture(mixture_state(fitted_with(inference=SVI(optimizer=optimizer))))
    assert isinstance(loaded.inference.optimizer, Unsaved)
    again = load_mixture(mixture_state(loaded))
    assert repr(again.inference.optimizer) == repr(loaded.inference.optimizer)


def test_a_class_without_its_name_is_unsaved(monkeypatch) -> None:
    loaded = fitted_with(inference=SVI(guide=type("Own", (AutoNormal,), {"__module__": "__main__"})))
    monkeypatch.setattr(sys.modules["__main__"], "Own", loaded.inference.guide, raising=False)
    assert repr(load_mixture(mixture_state(loaded)).inference.guide).startswith("Unsaved(")
    state = mixture_state(fitted_with(inference=SVI(guide=AutoNormal)))
    state["options"]["inference"]["options"]["guide"]["class"] = "pyro.infer.autoguide.guides.AutoRenamed"
    assert isinstance(load_mixture(state).inference.guide, Unsaved)


@pytest.mark.parametrize(
    "array",
    [np.eye(2, 3)[::-1], np.eye(2, 3).astype(">f8"), np.eye(3, 2).T, np.eye(2, 3, dtype=np.int16), np.array(0.1)],
    ids=["reversed", "byte order", "transposed", "integers", "a number"],
)
def test_arrays_of_any_layout_are_saved(array) -> None:
    loaded = load_mixture(mixture_state(fitted_with(means_init=array)))
    np.testing.assert_array_equal(loaded.means_init, array)
    assert loaded.means_init.shape == array.shape


def test_what_tensors_cannot_hold_is_unsaved() -> None:
    options = {
        "means_init": np.eye(2, 3, dtype=np.longdouble),
        "random_state": np.random.RandomState(np.random.PCG64()),
    }
    loaded = load_mixture(mixture_state(fitted_with(**options)))
    assert isinstance(loaded.random_state, Unsaved)
    assert isinstance(loaded.means_init, Unsaved) == (np.dtype(np.longdouble).itemsize > 8)


class Unregistered(Matrices):
    """A covariance type that is not registered."""

    name = "unregistered"


def test_a_covariance_type_that_is_not_registered_is_refused_on_both_sides() -> None:
    mixture = GaussianMixture(2, covariance_type=Unregistered(), random_state=0).fit(synthetic(60, n_components=2))
    with pytest.raises(ValueError, match=r"Expected a registered covariance type of a mixture to save; got Unreg"):
        mixture_state(mixture)
    state = mixture_state(fitted(GaussianMixture(2)))
    state["structure"] = "unregistered"
    with pytest.raises(ValueError, match="Expected a registered covariance type in a file; got 'unregistered': import"):
        load_mixture(state)


def test_a_covariance_type_set_after_the_fit_leaves_the_saved_mixture() -> None:
    mixture = fitted_with(covariance_type="diag")
    loaded = load_mixture(mixture_state(mixture))
    assert loaded.covariance_type == "diag"
    np.testing.assert_array_equal(loaded.covariances_, mixture.covariances_)
    assert loaded.parameters_.structure.name == "full"


def test_names_of_features_and_the_state_of_partial_fit_are_saved() -> None:
    x = synthetic(600, n_components=2)
    frames = [pd.DataFrame(part, columns=list("abc")) for part in np.array_split(x, 3)]
    mixture = GaussianMixture(2, random_state=0).partial_fit(frames[0]).partial_fit(frames[1])
    loaded = load_mixture(mixture_state(mixture))
    np.testing.assert_array_equal(loaded.feature_names_in_, list("abc"))
    for learner in (mixture, loaded):
        learner.partial_fit(frames[2] + 10)
    assert loaded.n_iter_ == mixture.n_iter_ == 3
    np.testing.assert_allclose(loaded.means_, mixture.means_, rtol=1e-5)  # statistics are those of the parameters


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_draws_of_a_posterior_are_saved(kind: str) -> None:
    mixture = fitted(GaussianMixture(2, covariance_type=kind, inference=NUTS(chains=2, draws=4, warmup=3)))
    loaded = load_mixture(mixture_state(mixture))
    x = synthetic(20, n_components=2)
    assert loaded.posterior_.inference == "nuts"
    assert torch.equal(loaded.posterior_.log_likelihood(x), mixture.posterior_.log_likelihood(x))
    assert loaded.posterior_.sample_stats.keys() == mixture.posterior_.sample_stats.keys()
    for name, values in mixture.posterior_.sample_stats.items():
        assert torch.equal(loaded.posterior_.sample_stats[name], values)


def test_log_densities_of_draws_are_saved_with_them() -> None:
    mixture = fitted(GaussianMixture(2, inference=SVI(guide=AutoNormal, priors={}, epochs=5)))
    posterior, kept = mixture.posterior_, load_mixture(mixture_state(mixture)).posterior_
    assert torch.equal(kept.sample_stats["log_q"], posterior.sample_stats["log_q"][:, ::2])
    state = draws_state(posterior)
    state["sample_stats"]["log_q"] = state["sample_stats"]["log_q"][:, 1:]
    with pytest.raises(ValueError, match=r"statistic .log_q. of draws of shape \(1, 500\); got \(1, 499\)"):
        load_draws(state, mixture.parameters_.structure, mixture.parameters_.means)


def test_of_many_draws_some_of_each_chain_are_saved() -> None:
    sites = {
        "weights": torch.ones(2, 3000, 1, dtype=torch.float64),
        "means": torch.arange(6000, dtype=torch.float64).reshape(2, 3000, 1, 1),
        "scales": torch.ones(2, 3000, 1, 1, dtype=torch.float64),
    }
    structure, floor = covariance_structure("diag"), torch.zeros(1, dtype=torch.float64)
    state = draws_state(MixturePosterior(sites, structure, floor))
    kept = load_draws(state, structure, torch.zeros(1, 1)).sites["means"].squeeze()
    assert kept[0].tolist() == list(range(0, 3000, 12))
    assert kept[1].tolist() == list(range(3000, 6000, 12))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("means", lambda site: site * torch.nan, "Expected finite draws of means; got NaN or infinity"),
        ("means", lambda site: site[..., :1], r"Expected draws of means of shape \(1, 4, 2, 3\) in float64; got"),
        ("weights", lambda site: 2 * site, "Expected draws of weights that sum to one"),
        ("scales", lambda site: -site, "Expected positive draws of scales"),
        ("correlation_cholesky", lambda site: -site, "Expected draws of correlation_cholesky with a positive diagonal"),
        ("scales", lambda site: None, "Expected draws of scales of shape .* got NoneType"),
    ],
)
def test_draws_that_no_fit_has_left_are_refused(name: str, change: Callable[[Tensor], Any], message: str) -> None:
    state = mixture_state(fitted(GaussianMixture(2, inference=NUTS(chains=1, draws=4, warmup=3))))
    state["draws"]["sites"][name] = change(state["draws"]["sites"][name])
    with pytest.raises(ValueError, match=message):
        load_mixture(state)


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3), None, [1.0]])
def test_statistics_that_no_fit_has_left_are_refused(wrong: Any) -> None:
    state = mixture_state(fitted(GaussianMixture(2, inference=NUTS(chains=1, draws=4, warmup=3))))
    state["draws"]["sample_stats"]["energy"] = wrong
    with pytest.raises(ValueError, match=r"Expected the statistic 'energy' of draws of shape \(1, 4\); got"):
        load_mixture(state)
    del state["draws"]["sample_stats"]
    assert load_mixture(state).posterior_.sample_stats == {}


def test_a_mixture_from_a_file_without_draws_says_so() -> None:
    loaded = load_mixture(mixture_state(fitted(GaussianMixture(2))))
    with pytest.raises(AttributeError, match="got a mixture from a file that holds no draws"):
        _ = loaded.posterior_


def test_random_states_structures_and_optimizers_of_pyro_are_saved() -> None:
    state = np.random.RandomState(3)
    optimizer = pyro.optim.Adam({"lr": 0.05})
    options = {"random_state": state, "covariance_type": covariance_structure("full")}
    loaded = load_mixture(mixture_state(fitted_with(inference=SVI(optimizer=optimizer), **options)))
    assert loaded.random_state.randint(2**31) == np.random.RandomState(3).randint(2**31)
    assert loaded.covariance_type == "full"
    assert loaded.inference.optimizer.pt_optim_args == {"lr": 0.05}


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.nn.Linear"])
def test_no_other_class_is_called_for_a_file(path: str) -> None:
    state = mixture_state(fitted(GaussianMixture(2, inference=SVI(optimizer=torch.optim.Adam, epochs=3))))
    state["options"]["inference"]["options"]["optimizer"] = {"class": path, "keywords": {}}
    with pytest.raises(ValueError, match=f"got {path}"):
        load_mixture(state)


def test_files_of_an_earlier_version_are_read() -> None:
    state = mixture_state(fitted(GaussianMixture(2)))
    del state["options"]
    algorithms = {"batch_size": 9, "svi_epochs": 40, "svi_tol": 1e-5, "nuts_draws": 30, "nuts_max_tree_depth": 3}
    state["parameters"] = {
        "n_components": 2,
        "covariance_type": "full",
        "inference": "svi",
        "batch_size": 9,
        **algorithms,
    }
    state["guide"] = "AutoMultivariateNormal"
    svi = load_mixture(state).inference
    assert svi.get_params() == SVI(guide=AutoMultivariateNormal, epochs=40, tol=1e-5, batch_size=9).get_params()
    state["parameters"] = {**state["parameters"], "inference": "nuts"}
    assert load_mixture(state).inference.get_params() == NUTS(draws=30, max_tree_depth=3).get_params()
    state["parameters"]["inference"] = "em"
    assert load_mixture(state).inference == "em"
    for name in ("_steps", "_weight"):
        del state["scalars"][name]
    again = load_mixture(mixture_state(load_mixture(state)))
    np.testing.assert_array_equal(again.means_, state["learned"]["means_"])
    assert again.partial_fit(synthetic(60, n_components=2)).n_iter_ == 2


def test_arguments_of_pyro_optimizers_and_priors_of_an_earlier_version_are_read() -> None:
    algorithm = SVI(optimizer=pyro.optim.Adam({"lr": 0.05}), priors={"means": dist.Normal(0.0, 3.0)})
    state = mixture_state(fitted_with(inference=algorithm))
    options = state["options"]["inference"]["options"]
    options["optimizer"]["arguments"] = {"mapping": options["optimizer"].pop("keywords")}
    prior = options["priors"]["mapping"]["means"]
    prior["arguments"] = prior.pop("keywords")
    loaded = load_mixture(state).inference
    assert loaded.optimizer.pt_optim_args == {"lr": 0.05}
    assert float(loaded.priors["means"].scale) == 3.0
    assert AutoDelta is SVI().guide
