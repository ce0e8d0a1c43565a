"""ArviZ's own functions take trees of mixtures and VAEs, without a warning."""

from __future__ import annotations

import warnings

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import renamed, to_datatree
from latentmix.inference.datatree import obstacle
from latentmix.models import VAE, Gaussian, MLPDecoder, StandardNormal

from tests.inference.process import off_screen
from tests.inference.trees.fits import POINTS, fitted


@pytest.fixture(scope="module", autouse=True)
def agg():
    with off_screen():
        yield


@pytest.fixture(scope="module")
def trees():
    made = {
        name: to_datatree(fitted(name, "full"), X=POINTS, posterior_predictive=name != "em")
        for name in ("nuts", "svi", "em")
    }
    torch.manual_seed(0)
    shape = (1, 3, 4)
    vae = VAE(
        decoder=MLPDecoder(latent_dim=2, hidden=(8,), shape=shape), prior=StandardNormal(2), likelihood=Gaussian()
    )
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=shape))
    return made | {"vae": to_datatree(vae, guide=guide, data=torch.rand(5, *shape), draws=100)}


def loo_approximate(tree, **options):
    stats = tree.sample_stats
    return arviz.loo_approximate_posterior(tree, log_p=stats["log_p"], log_q=stats["log_q"], **options)


def psense_summary(tree):
    return arviz.psense_summary(renamed(tree, component="cluster"))


def one_feature(tree):
    """A PIT is that of one value."""
    tree = tree.copy()
    for group in ("observed_data", "posterior_predictive"):
        tree[group] = xr.DataTree(tree[group].to_dataset().isel(feature=0, drop=True))
    assert obstacle(tree, "plot_loo_pit") is None
    return tree


def ppc_dist(tree):
    arviz.plot_ppc_dist(tree, num_samples=5)


FUNCTIONS = {
    "nuts": {
        "summary": arviz.summary,
        "plot_trace": lambda tree: arviz.plot_trace(tree, var_names=["weights"]),
        "plot_rank": lambda tree: arviz.plot_rank(tree, var_names=["weights"]),
        "plot_forest": lambda tree: arviz.plot_forest(tree, var_names=["weights", "means", "scales"]),
        "plot_pair": lambda tree: arviz.plot_pair(tree, var_names=["means"]),
        "plot_energy": arviz.plot_energy,
        "loo": arviz.loo,
        "compare": lambda tree: arviz.compare({"one": tree, "other": tree}),
        "psense_summary": psense_summary,
        "plot_ppc_dist": ppc_dist,
        "plot_loo_pit": lambda tree: arviz.plot_loo_pit(one_feature(tree)),
        "plot_prior_posterior": lambda tree: arviz.plot_prior_posterior(tree, var_names=["weights"]),
    },
    "svi": {
        "summary": lambda tree: arviz.summary(tree, kind="stats"),
        "plot_forest": arviz.plot_forest,
        "loo_approximate_posterior": loo_approximate,
        "psense_summary": psense_summary,
        "plot_ppc_dist": ppc_dist,
        "plot_khat": lambda tree: arviz.plot_khat(loo_approximate(tree, pointwise=True)),
    },
    "em": {
        "summary": lambda tree: arviz.summary(tree, kind="stats"),
        "plot_forest": arviz.plot_forest,
        "plot_pair": lambda tree: arviz.plot_pair(tree, var_names=["weights"]),
    },
    "vae": {
        "summary": lambda tree: arviz.summary(tree, kind="stats"),
        "plot_forest": arviz.plot_forest,
        "plot_ppc_dist": ppc_dist,
    },
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, named in FUNCTIONS.items() for name in named])
def test_functions_take_a_tree(kind, name, trees):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")  # of a few points
        FUNCTIONS[kind][name](trees[kind])
    plt.close("all")
    if name not in ("psense_summary", "plot_loo_pit"):
        assert obstacle(trees[kind], name) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("nuts", "psense_summary"),
        ("nuts", "plot_loo_pit"),
        ("svi", "loo"),
        ("svi", "plot_rank"),
        ("em", "loo"),
        ("em", "loo_approximate_posterior"),
        ("em", "psense_summary"),
        ("em", "plot_rank"),
        ("em", "plot_energy"),
        ("vae", "loo"),
        ("vae", "loo_approximate_posterior"),
        ("vae", "plot_loo_pit"),
    ],
)
def test_functions_without_meaning_have_a_sentence(kind, name, trees):
    assert (obstacle(trees[kind], name) or "").startswith("Expected")


def test_arviz_still_takes_no_dimension_component(trees):
    """Where this fails, `obstacle` need not refuse the name any more."""
    with pytest.raises(ValueError, match="component"):
        arviz.psense_summary(trees["nuts"])


def test_loo_of_a_guide_agrees_with_that_of_nuts(trees):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nuts, svi = arviz.loo(trees["nuts"]), loo_approximate(trees["svi"])
    assert abs(nuts.elpd - svi.elpd) < 2 * np.hypot(nuts.se, svi.se)
    assert abs(nuts.elpd - svi.elpd) < 1.0
