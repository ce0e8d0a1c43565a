import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from sklearn.exceptions import ConvergenceWarning

from latentmix.experiments.runs.artifacts import load_tree, save_tree
from latentmix.experiments.runs.mixture_state import load_mixture, mixture_state
from latentmix.inference import EM, NUTS, SVI, GaussianMixture

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


def with_parameters(mixture: GaussianMixture) -> GaussianMixture:
    """A mixture as if fitted."""
    mixture.parameters_ = fitted(GaussianMixture(2)).parameters_
    return mixture


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


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (GaussianMixture(1, inference=SVI(optimizer=lambda leaves: torch.optim.SGD(leaves, 0.1))), "option optimizer"),
        (GaussianMixture(1, inference=SVI(guide=type("Own", (AutoNormal,), {}))), "option guide"),
        (GaussianMixture(1, random_state=np.random.RandomState(0)), "option random_state"),
    ],
    ids=["function", "local class", "random state"],
)
def test_an_option_that_cannot_be_saved_is_refused(mixture: GaussianMixture, message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected an {message} that can be saved, as a class"):
        mixture_state(with_parameters(mixture))


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "nowhere.Optimizer"])
def test_no_other_class_is_called_for_a_file(path: str) -> None:
    state = mixture_state(fitted(GaussianMixture(2, inference=SVI(optimizer=torch.optim.Adam, epochs=3))))
    state["options"]["inference"]["options"]["optimizer"] = {"class": path, "keywords": {}}
    with pytest.raises(ValueError, match=f"got the class {path}"):
        load_mixture(state)


def test_files_of_an_earlier_version_are_read() -> None:
    state = mixture_state(fitted(GaussianMixture(2)))
    del state["options"]
    algorithms = {"svi_epochs": 40, "svi_tol": 1e-5, "nuts_draws": 30, "nuts_max_tree_depth": 3}
    state["parameters"] = {"n_components": 2, "covariance_type": "full", "inference": "svi", **algorithms}
    state["guide"] = "AutoMultivariateNormal"
    svi = load_mixture(state).inference
    assert svi.get_params() == SVI(guide=AutoMultivariateNormal, epochs=40, tol=1e-5).get_params()
    state["parameters"]["inference"], state["guide"] = "nuts", "AutoDelta"
    assert load_mixture(state).inference.get_params() == NUTS(draws=30, max_tree_depth=3).get_params()
    state["parameters"]["inference"] = "em"
    assert load_mixture(state).inference == "em"
    assert AutoDelta is SVI().guide
