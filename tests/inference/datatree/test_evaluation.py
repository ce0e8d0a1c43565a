"""Models at draws: batch dimensions without plates, evaluation of all draws together, and the log joint density."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from torch.distributions import Normal

from latentmix.inference import from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws, evaluation
from latentmix.inference.datatree.containment import contained
from latentmix.inference.datatree.evaluation import ModelAtDraws

Y = torch.tensor([-1.0, 0.5, 2.0, 0.1])
WEIGHTS = torch.tensor([0.3, 0.7])
SEEN = torch.tensor([True, False, True, True])


def converted(model, **samples):
    return from_pyro(Draws({name: torch.as_tensor(value)[None] for name, value in samples.items()}, model=model))


def test_batches_without_a_plate_stay_pointwise():
    def model():
        b = pyro.sample("b", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("y", dist.Bernoulli(logits=b), obs=(Y > 0).float())
        pyro.sample("z", dist.Normal(b, 2.0), obs=Y)

    b = torch.randn(3, 4)
    tree = converted(model, b=b)
    assert list(tree.log_likelihood.data_vars) == ["y", "z"]
    expected = torch.distributions.Bernoulli(logits=b).log_prob((Y > 0).float())
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0], expected, rtol=1e-5)
    np.testing.assert_allclose(tree.log_likelihood["z"].values[0], Normal(b, 2.0).log_prob(Y), rtol=1e-5)


def test_eight_schools_without_plates():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        eta = pyro.sample("eta", dist.Normal(torch.zeros(4), torch.ones(4)))
        pyro.sample("y", dist.Normal(mu + eta, torch.ones(4)), obs=Y)

    mu, eta = torch.randn(3), torch.randn(3, 4)
    tree = converted(model, mu=mu, eta=eta)
    np.testing.assert_allclose(
        tree.log_likelihood["y"].values[0], Normal(mu[:, None] + eta, 1.0).log_prob(Y), rtol=1e-5
    )
    np.testing.assert_allclose(tree.log_prior["eta"].values[0], Normal(0.0, 1.0).log_prob(eta), rtol=1e-5)


def test_two_dimensions_of_data_beside_a_plate():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("other", 3):
            pyro.sample("nu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0).expand([2, 2]), obs=Y.reshape(2, 2))

    tree = converted(model, mu=torch.zeros(2), nu=torch.zeros(2, 3))
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0, 0], Normal(0.0, 1.0).log_prob(Y.reshape(2, 2)))


def mixture():
    """A mixture whose locations are in no plate."""
    locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 1.0))
    with pyro.plate("datum", 4):
        z = pyro.sample("z", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(locs[z], 1.0), obs=Y)


def by_hand(locs):
    return torch.logsumexp(Normal(locs[:, None], 1.0).log_prob(Y[:, None]) + WEIGHTS.log(), -1)


def test_mixture_with_locations_in_no_plate():
    locs = torch.randn(3, 2)
    tree = converted(mixture, locs=locs)
    assert tree.log_likelihood["y"].attrs["summed_out"] == "z"
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0], by_hand(locs), rtol=1e-5)
    np.testing.assert_allclose(tree.log_prior["locs"].values[0], Normal(0.0, 1.0).log_prob(locs), rtol=1e-5)


@pytest.mark.parametrize("enumerate_", [{}, {"enumerate": "parallel"}])
def test_draws_of_a_discrete_site_are_conditioned_on(enumerate_):
    def model():
        weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        with pyro.plate("datum", 4):
            z = pyro.sample("z", dist.Bernoulli(weight), infer=dict(enumerate_))
            pyro.sample("y", dist.Normal(z, 1.0), obs=Y)

    tree = converted(model, weight=torch.full((2,), 0.3), z=torch.ones(2, 4))
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0, 0], Normal(1.0, 1.0).log_prob(Y), rtol=1e-5)
    assert tree.log_likelihood["y"].attrs == {"conditional_on": "z"}
    assert set(tree.log_prior.data_vars) == {"weight", "z"}


def plated(scale=1.0, mask=True, factor=False):
    def model():
        with pyro.plate("component", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 1.0))
        if factor:
            pyro.factor("factor", -locs.square().sum())
        with pyro.plate("datum", 4), poutine.scale(scale=scale), poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(locs[z], 1.0), obs=Y)

    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 3.0}, {"mask": SEEN}, {"mask": False}, {"scale": 3.0, "mask": SEEN}, {"scale": 0.5, "factor": True}],
    ids=str,
)
def test_log_joint_of_a_mixture_is_that_of_pyro(options):
    model = plated(**options)
    guide = AutoDelta(poutine.block(model, hide=["z"]))
    expected = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide)
    tree = from_pyro_svi(model, guide, num_samples=2)
    np.testing.assert_allclose(tree.sample_stats["log_p"].values, expected, rtol=1e-5)
    if options.get("mask") is SEEN:
        np.testing.assert_allclose(tree.log_likelihood["y"].values[..., 1], 0.0, atol=1e-6)


def test_log_joint_without_a_sum_is_that_of_pyro():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("factor", -mu.square())
        with pyro.plate("datum", 4), poutine.scale(scale=2.0), poutine.mask(mask=SEEN):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=Y)

    guide = AutoDelta(model)
    expected = -Trace_ELBO().loss(model, guide)
    tree = from_pyro_svi(model, guide, num_samples=2)
    np.testing.assert_allclose(tree.sample_stats["log_p"].values, expected, rtol=1e-5)


def test_log_joint_of_several_scales_is_left_out():
    def model():
        locs = pyro.sample("locs", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("datum", 4):
            z = pyro.sample("z", dist.Categorical(WEIGHTS))
            with poutine.scale(scale=2.0):
                pyro.sample("y", dist.Normal(locs[z], 1.0), obs=Y)

    tree = from_pyro_svi(model, lambda: pyro.sample("locs", dist.Normal(torch.zeros(2), 1.0).to_event(1)))
    assert "log_p" not in tree.sample_stats
    assert tree.attrs["log_p_omitted"] == "The log joint density is not defined where 'y', 'z' have different scales."


class Counted:
    """Counts the runs of a model."""

    def __init__(self, model):
        self.model, self.runs = model, 0

    def __call__(self):
        self.runs += 1
        self.model()


def supports():
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    pyro.sample("chol", dist.LKJCholesky(3, 1.0))
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    with pyro.plate("datum", 4):
        pyro.deterministic("shift", Y - share)
        pyro.sample("y", dist.Normal(weights[0], rate), obs=Y)
        pyro.sample("x", dist.MultivariateNormal(weights, torch.eye(3)), obs=torch.zeros(4, 3))


SAMPLES = {
    "weights": torch.distributions.Dirichlet(torch.ones(3)).sample((50,)),
    "rate": torch.rand(50) + 0.5,
    "chol": torch.eye(3).expand(50, 3, 3),
    "share": torch.linspace(0.1, 0.9, 50),
}
GROUPS = ("deterministic", "unconstrained", "log_prior", "log_likelihood", "log_joint")


@pytest.mark.parametrize(
    ("model", "samples"),
    [(supports, SAMPLES), (mixture, {"locs": torch.linspace(-1, 1, 100).reshape(50, 2)})],
    ids=["continuous", "enumerated"],
)
def test_draws_are_evaluated_together_and_agree_with_one_by_one(model, samples, monkeypatch):
    counted = Counted(model)
    with contained(model):
        at_draws = ModelAtDraws(counted, (), {}, {name: value[0] for name, value in samples.items()})
        together = at_draws.at(samples, *GROUPS)
    assert counted.runs <= 4  # of 50 draws

    def refused(*args, **options):
        raise RuntimeError("vmap")

    monkeypatch.setattr(torch, "vmap", refused)
    with contained(model):
        one_by_one = at_draws.at(samples, *GROUPS)
    assert counted.runs > 50
    assert {group: set(values) for group, values in together.items()} == {
        group: set(values) for group, values in one_by_one.items()
    }
    for group, values in together.items():
        for name, value in values.items():
            np.testing.assert_allclose(value, one_by_one[group][name], rtol=1e-5, atol=1e-6)


def test_branches_on_values_are_evaluated_one_by_one():
    def model(branch):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if branch and mu.item() > 100:
            raise AssertionError
        with pyro.plate("datum", 4):
            pyro.deterministic("shift", Y - mu)
            pyro.sample("y", dist.Normal(mu, 1.0), obs=Y)

    draws = {"mu": torch.randn(1, 6)}
    one, other = (from_pyro(Draws(draws, model=model, model_args=(branch,))) for branch in (True, False))
    for group in ("posterior", "log_likelihood", "log_prior"):
        for name in one[group].data_vars:
            np.testing.assert_allclose(one[group][name], other[group][name], rtol=1e-6)


def test_errors_of_the_model_are_not_hidden():
    def model():
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        raise LookupError("of the model")

    with pytest.raises(LookupError, match="of the model"):
        converted(model, mu=torch.zeros(3))


def test_parts_of_the_draws_count_event_dimensions(monkeypatch):
    parts = []
    vmap = torch.vmap
    monkeypatch.setattr(torch, "vmap", lambda *a, chunk_size, **o: parts.append(chunk_size) or vmap(*a, **o))
    monkeypatch.setattr(evaluation, "_ELEMENTS", 1000)

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(4, 2), 1.0).to_event(2))
        with pyro.plate("image", 4):
            pyro.sample("x", dist.Bernoulli(logits=(z @ torch.ones(2, 25))).to_event(1), obs=torch.zeros(4, 25))

    converted(model, z=torch.zeros(20, 4, 2))
    assert parts == [1000 // (4 * 25 + 4 * 2)]
