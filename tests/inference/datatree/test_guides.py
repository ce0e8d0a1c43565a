"""Guides: which have a density over the model's latents, and what its value is."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_median
from torch.distributions import constraints

from latentmix.inference import from_pyro_svi

X = torch.tensor([0.5, -0.3, 1.2])


def model(x=X):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("datum", len(x)):
        pyro.sample("x", dist.Normal(weights[0], scale), obs=x)


GUIDES = {
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoLowRankMultivariateNormal": autoguide.AutoLowRankMultivariateNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoNormal": autoguide.AutoNormal,
    "AutoIAFNormal": lambda model: autoguide.AutoIAFNormal(model, hidden_dim=[8]),
    "AutoStructured": lambda model: autoguide.AutoStructured(model, conditionals="normal"),
}


@pytest.mark.parametrize("name", GUIDES)
def test_guides_with_a_density(name):
    guide = GUIDES[name](model)
    guide()
    tree = from_pyro_svi(model, guide, num_samples=3)
    assert set(tree.sample_stats.data_vars) == {"log_p", "log_q"}
    assert np.isfinite(tree.sample_stats["log_q"]).all()
    assert set(tree.posterior.data_vars) == {"weights", "scale"}
    assert dict(tree.unconstrained_posterior.sizes)["weights_dim_0"] == 2


def test_density_of_a_guide_by_hand():
    def guide():
        pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
        rate = pyro.param("rate", torch.tensor(3.0), constraint=constraints.positive)
        pyro.sample("scale", dist.Gamma(4.0, rate))

    guide()
    tree = from_pyro_svi(model, guide, num_samples=4)
    weights, scale = (torch.tensor(tree.posterior[name].values[0]) for name in ("weights", "scale"))
    log_q = torch.distributions.Dirichlet(torch.tensor([2.0, 3.0, 4.0])).log_prob(weights)
    log_q = log_q + torch.distributions.Gamma(4.0, 3.0).log_prob(scale)
    np.testing.assert_allclose(tree.sample_stats["log_q"].values[0], log_q, rtol=1e-5)


def test_dimensions_by_name_are_those_of_constrained_values_alone():
    guide = autoguide.AutoNormal(model)
    guide()
    tree = from_pyro_svi(model, guide, num_samples=2, dims={"weights": ["part"]}, coords={"part": list("abc")})
    assert tree.posterior["weights"].dims == ("chain", "draw", "part")
    assert tree.unconstrained_posterior["weights"].dims == ("chain", "draw", "weights_dim_0")
    assert tree.log_prior["weights"].dims == ("chain", "draw")


def test_a_point_has_no_density():
    guide = autoguide.AutoDelta(model)
    guide()
    tree = from_pyro_svi(model, guide, num_samples=3)
    assert set(tree.sample_stats.data_vars) == {"log_p"}
    assert tree.attrs["log_q_omitted"] == "The guide is a point in 3 of 3 dimensions, and has no density there."


def test_auxiliary_variables_leave_no_density():
    def guide():
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("weights", dist.Dirichlet(torch.ones(3) * shift.exp()))
        pyro.sample("scale", dist.HalfNormal(1.0))

    tree = from_pyro_svi(model, guide, num_samples=3)
    assert "1 auxiliary" in tree.attrs["log_q_omitted"]
    assert "shift" not in tree.posterior


@pytest.mark.parametrize("count", [1, 3])
def test_a_point_is_not_made_up_for_by_an_auxiliary_variable(count):
    def guide():
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("weights", dist.Dirichlet(torch.ones(3) * shift.exp()))
        pyro.sample("scale", dist.Delta(torch.tensor(1.0)))

    tree = from_pyro_svi(model, guide, num_samples=count)
    assert tree.attrs["log_q_omitted"] == "The guide is a point in 1 of 3 dimensions, and has no density there."


def test_a_guide_of_a_point_and_a_normal():
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoNormal(poutine.block(model, expose=["weights"])))
    guide.append(autoguide.AutoDelta(poutine.block(model, expose=["scale"])))
    guide()
    assert "a point in 1 of 3" in from_pyro_svi(model, guide, num_samples=2).attrs["log_q_omitted"]


def test_a_guide_of_subsampled_local_latents_is_evaluated_in_full():
    def local(x=X):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 3, subsample_size=2) as index:
            u = pyro.sample("u", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x[index])

    guide = autoguide.AutoNormal(local, init_loc_fn=init_to_median)
    guide()
    tree = from_pyro_svi(local, guide, num_samples=2)
    assert tree.posterior["u"].dims == ("chain", "draw", "datum")
    assert list(tree.log_likelihood["datum"].values) == [0, 1, 2]
    log_joint = tree.log_likelihood["x"].sum("datum") + tree.log_prior["u"].sum("datum") + tree.log_prior["mu"]
    np.testing.assert_allclose(tree.sample_stats["log_p"], log_joint, rtol=1e-5)
