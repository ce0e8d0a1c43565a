"""Trees of eight models, by MCMC and by SVI, hold what is computed by hand from the draws."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.distributions import biject_to

from latentmix.inference import from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws

from tests.inference.datatree.examples import EXAMPLES, run


def each(tree, group="posterior"):
    """Draws of a group, one dictionary per chain and draw."""
    data = tree[group]
    for chain in range(data.sizes["chain"]):
        for draw in range(data.sizes["draw"]):
            yield {name: torch.tensor(data[name].values[chain, draw]) for name in data.data_vars}


def check(tree, example):
    for name, dims in example.dims.items():
        if name in tree.posterior:
            assert tree.posterior[name].dims == ("chain", "draw", *dims)
    observed = example.observed
    assert tree.observed_data[observed].dims == example.dims[observed]
    assert tree.log_likelihood[observed].dims == ("chain", "draw", *example.dims[observed])
    draws = list(each(tree))
    by_hand = torch.stack([example.log_likelihood(draw) for draw in draws])
    values = tree.log_likelihood[observed].values
    np.testing.assert_allclose(values.reshape(by_hand.shape), by_hand, rtol=2e-5, atol=2e-5)
    for name, function in example.deterministic.items():
        expected = torch.stack([function(draw) for draw in draws])
        np.testing.assert_allclose(tree.posterior[name].values.reshape(expected.shape), expected, rtol=1e-5)
    return by_hand


@pytest.mark.parametrize("name", EXAMPLES)
def test_mcmc(name):
    example = EXAMPLES[name]
    mcmc = run(example.model, *example.args)
    tree = from_pyro(mcmc)
    for site, value in mcmc.get_samples(group_by_chain=True).items():
        np.testing.assert_array_equal(tree.posterior[site], value)
    by_hand = check(tree, example)
    log_joint = example.scale * by_hand.sum(-1).double()
    for value in tree.log_prior.data_vars.values():
        log_joint += torch.from_numpy(value.values.reshape(len(by_hand), -1).sum(-1))
    trace = poutine.trace(poutine.condition(example.model, data=next(each(tree)))).get_trace(*example.args)
    for site, value in tree.unconstrained_posterior.data_vars.items():
        transform = biject_to(trace.nodes[site]["fn"].support)
        free = torch.tensor(value.values[0])
        jacobian = transform.log_abs_det_jacobian(free, transform(free))
        log_joint += jacobian.reshape(len(by_hand), -1).sum(-1)
    np.testing.assert_allclose(tree.sample_stats["lp"].values[0], log_joint, rtol=1e-4)


@pytest.mark.parametrize("name", EXAMPLES)
def test_svi(name):
    example = EXAMPLES[name]
    model = poutine.block(example.model, hide=["assignment"]) if name == "mixture" else example.model
    guide = AutoNormal(model)
    guide(*example.args)
    tree = from_pyro_svi(example.model, guide, model_args=example.args, num_samples=4, seed=3)
    pyro.set_rng_seed(3)
    traces = [poutine.trace(guide).get_trace(*example.args) for _ in range(4)]
    for site in tree.log_prior.data_vars:
        drawn = torch.stack([trace.nodes[site]["value"].detach() for trace in traces])
        np.testing.assert_array_equal(tree.posterior[site].values[0], drawn)
    np.testing.assert_allclose(
        tree.sample_stats["log_q"].values[0], [trace.log_prob_sum().item() for trace in traces], rtol=1e-5
    )
    by_hand = check(tree, example)
    log_p = example.scale * by_hand.sum(-1).double()
    for value in tree.log_prior.data_vars.values():
        log_p += torch.from_numpy(value.values.reshape(4, -1).sum(-1))
    np.testing.assert_allclose(tree.sample_stats["log_p"].values[0], log_p, rtol=1e-4)
    assert tree.attrs["inference"] == tree.posterior.attrs["inference"] == "svi"
    assert dict(tree.posterior.sizes)["chain"] == 1


def test_draws_are_shown_in_a_line() -> None:
    assert repr(Draws({"mu": torch.zeros(2, 5), "x": torch.zeros(2, 5, 3)})) == "Draws(2 x 5 of mu, x)"
