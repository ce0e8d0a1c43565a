"""Trees have the dimensions and coordinates that ArviZ's converter for NumPyro gives to the same models."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive

from latentmix.inference import from_pyro

from tests.inference.datatree.examples import run

numpyro = pytest.importorskip("numpyro", reason="NumPyro is in the extra `bench`")
jax = pytest.importorskip("jax")
GROUPS = ("posterior", "log_likelihood", "observed_data", "prior", "posterior_predictive", "constant_data")
Y = np.arange(6.0).reshape(2, 3) / 10


def eight_schools(lib, d, np_):
    mu = lib.sample("mu", d.Normal(0.0, 5.0))
    tau = lib.sample("tau", d.HalfCauchy(5.0))
    with lib.plate("school", 3):
        eta = lib.sample("eta", d.Normal(0.0, 1.0))
        theta = lib.deterministic("theta", mu + tau * eta)
        lib.sample("y", d.Normal(theta, 10.0), obs=np_(Y[0]))


def nested(lib, d, np_):
    mu = lib.sample("mu", d.Normal(np_(np.zeros(2)), 1.0).to_event(1), infer={"event_dims": ["feature"]})
    free = lib.sample("free", d.Normal(np_(np.zeros((2, 2))), 1.0).to_event(2))
    with lib.plate("class", 2, dim=-2):
        level = lib.sample("level", d.Normal(mu[0], 1.0))
        with lib.plate("pupil", 3, dim=-1):
            lib.sample("y", d.Normal(level + free.sum(), 1.0), obs=np_(Y))


def vectors(lib, d, np_):
    with lib.plate("component", 2):
        locs = lib.sample("locs", d.Normal(np_(np.zeros(3)), 1.0).to_event(1), infer={"event_dims": ["feature"]})
    with lib.plate("datum", 2):
        lib.sample("y", d.Normal(locs, 1.0).to_event(1), obs=np_(Y), infer={"event_dims": ["feature"]})


def understood(prior):
    """Draws without those of which NumPyro's converter takes the first dimension for chains."""
    return {name: value for name, value in prior.items() if name not in ("free", "level")}


def theirs(model, **options):
    def numpyro_model():
        model(numpyro, numpyro.distributions, jax.numpy.asarray)

    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(numpyro_model, max_tree_depth=2), num_warmup=2, num_samples=4, progress_bar=False
    )
    fields = ("potential_energy", "energy", "num_steps", "accept_prob", "diverging", "adapt_state.step_size")
    mcmc.run(jax.random.PRNGKey(0), extra_fields=fields)
    prior = understood(numpyro.infer.Predictive(numpyro_model, num_samples=4)(jax.random.PRNGKey(0)))
    from arviz_base import from_numpyro

    return from_numpyro(
        mcmc,
        log_likelihood=True,
        prior=prior,
        posterior_predictive={"y": Y[None, None] + np.zeros((1, 4, 1, 1))}
        if model is not eight_schools
        else {"y": np.zeros((1, 4, 3))},
        **options,
    )


def ours(model, **options):
    def pyro_model():
        model(pyro, dist, lambda array: torch.tensor(array, dtype=torch.float32))

    mcmc = run(pyro_model, draws=4, warmup=2, max_tree_depth=2)
    prior = understood(Predictive(pyro_model, num_samples=4)())
    return from_pyro(
        mcmc,
        prior=prior,
        posterior_predictive={"y": Y[None, None] + np.zeros((1, 4, 1, 1))}
        if model is not eight_schools
        else {"y": np.zeros((1, 4, 3))},
        **options,
    )


@pytest.mark.parametrize("model", [eight_schools, nested, vectors], ids=lambda model: model.__name__)
@pytest.mark.parametrize("options", [{}, {"index_origin": 1}], ids=["plain", "origin"])
def test_dimensions_and_coordinates(model, options):
    options = {**options, "constant_data": {"x": np.zeros(4)}}
    one, other = ours(model, **options), theirs(model, **options)
    assert set(other.sample_stats.data_vars) <= set(one.sample_stats.data_vars)
    for group in (*GROUPS, "sample_stats"):
        shared = set(one[group].data_vars) & set(other[group].data_vars)
        assert shared
        for name in shared:
            assert one[group][name].dims == other[group][name].dims
            assert one[group][name].shape == other[group][name].shape
            for dim in one[group][name].dims:
                np.testing.assert_array_equal(one[group][dim], other[group][dim])
