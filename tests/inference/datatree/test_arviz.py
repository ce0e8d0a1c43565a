"""ArviZ's own functions take the trees, without a warning."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from latentmix.inference import from_pyro
from latentmix.inference.datatree import obstacle

from tests.inference.datatree.both import MCMC_FUNCTIONS, SVI_FUNCTIONS, by_mcmc, by_svi
from tests.inference.datatree.examples import EXAMPLES, FEATURES, RESPONSE, linear, run
from tests.inference.process import off_screen


@pytest.fixture(scope="module", autouse=True)
def agg():
    with off_screen():
        yield


@pytest.fixture(scope="module")
def mcmc_tree():
    mcmc = run(linear, FEATURES, RESPONSE, draws=60, warmup=40, chains=2)
    pyro.set_rng_seed(0)
    return from_pyro(
        mcmc,
        prior=Predictive(linear, num_samples=60)(FEATURES),
        posterior_predictive=Predictive(linear, mcmc.get_samples())(FEATURES),
        constant_data={"x": FEATURES},
        dims={"x": ["row", "feature"]},
    )


@pytest.fixture(scope="module")
def svi_tree():
    return by_svi(EXAMPLES["linear regression"])


def accepted(function, tree):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")  # of five data
        function(tree)
    plt.close("all")


@pytest.mark.parametrize("name", MCMC_FUNCTIONS)
def test_functions_take_a_tree_of_mcmc(name, mcmc_tree):
    accepted(MCMC_FUNCTIONS[name], mcmc_tree)


@pytest.mark.parametrize("name", SVI_FUNCTIONS)
def test_functions_take_a_tree_of_svi(name, svi_tree):
    accepted(SVI_FUNCTIONS[name], svi_tree)


STATISTICS = ("summary", "loo", "psense_summary", "loo_approximate_posterior")


@pytest.mark.parametrize("example", EXAMPLES)
def test_statistics_take_the_trees_of_every_model(example):
    """The proof `arviz_takes_the_trees` adds the plots, and longer runs."""
    trees = by_mcmc(EXAMPLES[example], draws=30, warmup=10), by_svi(EXAMPLES[example], steps=30)
    for tree, functions in zip(trees, (MCMC_FUNCTIONS, SVI_FUNCTIONS), strict=True):
        for name in (each for each in STATISTICS if each in functions):
            if name == "loo" and example == "masked and scaled":
                assert "for 2 of 5 data of y, as a mask gives" in obstacle(tree, name)
            else:
                accepted(functions[name], tree)


def test_groups_of_a_full_tree(mcmc_tree):
    assert set(mcmc_tree.children) == {
        "posterior",
        "unconstrained_posterior",
        "sample_stats",
        "log_likelihood",
        "log_prior",
        "posterior_predictive",
        "prior",
        "prior_predictive",
        "observed_data",
        "constant_data",
        "warmup_posterior",
        "warmup_sample_stats",
    }
    assert dict(mcmc_tree.prior.sizes) == {"chain": 1, "draw": 60, "feature": 2}
    assert dict(mcmc_tree.prior_predictive.sizes) == {"chain": 1, "draw": 60, "row": 5}
    assert dict(mcmc_tree.posterior_predictive.sizes) == {"chain": 2, "draw": 60, "row": 5}
    assert mcmc_tree.constant_data["x"].dims == ("row", "feature")


def test_grouped_predictive_draws_are_the_flat_ones(mcmc_tree):
    flat = torch.arange(12.0).reshape(6, 2)
    draws = {"beta": torch.zeros(2, 3, 2)}
    for value in (flat, flat.reshape(2, 3, 2)):
        tree = from_pyro(draws, num_chains=2, posterior_predictive={"y": value}, predictions={"y": value})
        for group in ("posterior_predictive", "predictions"):
            assert (tree[group]["y"].values == flat.reshape(2, 3, 2).numpy()).all()


def test_predictions_of_other_data_have_coordinates_of_their_own():
    def model(x):
        return linear(x, RESPONSE if len(x) == 5 else None)

    mcmc = run(model, FEATURES)
    predictions = Predictive(poutine.uncondition(linear), mcmc.get_samples())(FEATURES[:3])
    tree = from_pyro(mcmc, predictions=predictions, coords={"row": list("abcde")})
    assert list(tree.observed_data["row"].values) == list("abcde")
    assert list(tree.predictions["row"].values) == [0, 1, 2]


def test_a_tree_without_a_posterior():
    prior = Predictive(linear, num_samples=4)(FEATURES)
    tree = from_pyro(prior=prior, sample_dims=["chain", "draw"])
    assert dict(tree.prior["y"].sizes) == {"chain": 1, "draw": 4, "y_dim_0": 5}
