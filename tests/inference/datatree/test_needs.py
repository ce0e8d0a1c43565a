"""Functions of ArviZ that a tree does not serve are named in one sentence."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentmix.inference import from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws, obstacle, renamed


def model():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("component", 3):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.zeros(3))


def guide():
    pyro.sample("mu", dist.Normal(0.0, 0.5))


@pytest.fixture(scope="module")
def trees():
    mcmc = Draws(
        {"mu": torch.randn(2, 4)}, model=model, sample_stats={"energy": torch.ones(2, 4)}, attrs={"inference": "mcmc"}
    )
    return {"mcmc": from_pyro(mcmc), "svi": from_pyro_svi(model, guide, num_samples=4)}


@pytest.mark.parametrize(
    ("kind", "function", "reason"),
    [
        ("mcmc", "plot_rank", None),
        ("mcmc", "plot_energy", None),
        ("mcmc", "loo", None),
        ("mcmc", "plot_trace", None),
        ("mcmc", "plot_ppc_dist", r"group posterior_predictive .* by posterior_predictive=\.$"),
        ("mcmc", "plot_prior_posterior", r"group prior "),
        ("mcmc", "psense_summary", None),
        ("mcmc", "loo_approximate_posterior", r"log density of every draw"),
        ("svi", "plot_rank", r"two chains or more for plot_rank; got one: draws by SVI are independent"),
        ("svi", "plot_energy", r"energy of every draw .* draws by SVI have none\.$"),
        ("svi", "loo", r"use loo_approximate_posterior\.$"),
        ("svi", "loo_approximate_posterior", None),
        ("svi", "plot_forest", None),
        ("svi", "plot_khat", None),
        ("mcmc", "plot_ppc_pit", r"group posterior_predictive "),
    ],
)
def test_obstacles(trees, kind, function, reason):
    sentence = obstacle(trees[kind], function)
    if reason is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert re.search(reason, sentence)
        assert sentence.startswith("Expected")
        assert sentence.endswith(".")


@pytest.mark.parametrize("function", ["loo", "compare", "plot_loo_pit", "plot_khat"])
def test_masked_data_have_no_importance_ratios(function):
    seen = torch.tensor([True, False, True])

    def masked():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 3), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.zeros(3))

    draws = torch.randn(2, 30)
    tree = from_pyro(Draws({"mu": draws}, model=masked), posterior_predictive={"y": torch.randn(2, 30, 3)})
    assert re.search(rf"at every datum for {function}; got the same .* for 1 of 3 data of y", obstacle(tree, function))
    for group in ("log_likelihood", "observed_data", "posterior_predictive"):
        tree[group] = tree[group].to_dataset().isel(datum=seen.numpy())
    assert obstacle(tree, function) is None


@pytest.mark.parametrize(("dim", "function"), [("component", "psense_summary"), ("column", "plot_forest")])
def test_dimensions_of_the_posterior_that_a_function_uses_itself(dim, function):
    def grouped():
        with pyro.plate(dim, 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu.sum(), 1.0), obs=torch.zeros(()))

    tree = from_pyro(Draws({"mu": torch.randn(2, 4, 2)}, model=grouped))
    assert re.search(rf"no dimension named '{dim}' .* renamed\(tree, {dim}=\.\.\.\)", obstacle(tree, function))
    assert obstacle(renamed(tree, **{dim: "part"}), function) is None


@pytest.mark.parametrize(
    ("dims", "reason"), [({"group": "part"}, "got 'group'"), ({"component": "chain"}, "got 'chain', which another")]
)
def test_names_that_cannot_be_given(trees, dims, reason):
    with pytest.raises(ValueError, match=rf"^Expected .*{reason}"):
        renamed(trees["mcmc"], **dims)


def test_renamed_keeps_values_and_attributes(trees):
    tree = trees["mcmc"]
    again = renamed(renamed(tree, component="part"), part="component")
    assert again.identical(tree)
