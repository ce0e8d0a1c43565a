"""Models with their guides and data, for the tests of objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.elbo import ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import Objective, Terms, as_objective
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...], int]
TOTAL = 100  # size of the plate that a subsampled pair names


def data(n: int = 12) -> Tensor:
    return torch.linspace(-2.0, 3.0, n, dtype=torch.float64)


def vae_pair() -> Pair:
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 3, 3)), StandardNormal(2), Bernoulli()).double()
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 3, 3))).double()
    x = torch.bernoulli(torch.full((12, 1, 3, 3), 0.4, dtype=torch.float64))
    return vae.model, guide, (x,), 12


def subsampled_pair() -> Pair:
    """A global latent, a plate of TOTAL data of which 12 are seen, a scale and a mask."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
        spread = pyro.param("spread", torch.tensor(1.5, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("data", TOTAL, subsample=x), poutine.mask(mask=x < 2.9):
            local = pyro.sample("local", dist.Normal(loc, spread))
            pyro.sample("x", dist.Normal(local, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc_q", torch.tensor(0.3, dtype=torch.float64))
        scale = pyro.param("scale_q", torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)
        slope = pyro.param("slope", torch.tensor(0.4, dtype=torch.float64))
        pyro.sample("loc", dist.Normal(loc, scale))
        with pyro.plate("data", TOTAL, subsample=x), poutine.mask(mask=x < 2.9):
            pyro.sample("local", dist.Normal(slope * x, scale))

    return model, guide, (data(),), TOTAL


def score_function_pair() -> Pair:
    """A global and a local Bernoulli latent, whose gradients need the score function."""

    def model(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.2, dtype=torch.float64))
        switch = pyro.sample("switch", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        with pyro.plate("data", TOTAL, subsample=x):
            side = pyro.sample("side", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(shift * switch + 2 * side + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        switch = pyro.param("switch_q", torch.tensor(0.6, dtype=torch.float64), constraint=constraints.unit_interval)
        slope = pyro.param("slope", torch.tensor(0.5, dtype=torch.float64))
        pyro.sample("switch", dist.Bernoulli(switch))
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("side", dist.Bernoulli(logits=slope * x))
            pyro.sample("z", dist.Normal(slope * x, 0.5))

    return model, guide, (data(),), TOTAL


def auxiliary_pair() -> Pair:
    """AutoNormal over a positive latent: an auxiliary site, a Delta with a log-density."""

    def model(x: Tensor) -> None:
        each = torch.ones((), dtype=torch.float64)
        scale = pyro.sample("scale", dist.LogNormal(0 * each, each))
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("x", dist.Normal(0 * each, scale), obs=x)

    return model, AutoNormal(model), (data(),), TOTAL


def mixture(x: Tensor, size: int) -> None:
    """Two components over points, with a site that does not depend on the component, enumerated."""
    each = torch.ones(2, dtype=torch.float64)
    weights = pyro.sample("weights", dist.Dirichlet(2 * each))
    with pyro.plate("components", 2):
        means = pyro.sample("means", dist.Normal(0 * each[0], 3 * each[0]))
    scale = pyro.param("scale", torch.tensor(0.8, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("data", size, subsample=x):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(Vindex(means.unsqueeze(-2))[..., k], scale), obs=x)
        pyro.sample("y", dist.Normal(weights[..., 0], scale), obs=x + 1)


def mixture_pair(guide: Callable[[Any], Any], size: int) -> Pair:
    def model(x: Tensor) -> None:
        mixture(x, size)

    hidden = poutine.block(model, expose=["weights", "means"])
    return model, guide(hidden), (data(),), size


def chain_pair() -> Pair:
    """Two enumerated variables, one dependent on the other, and a plate on the right of the data's."""

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([[0.1, 0.9], [0.6, -0.4]], dtype=torch.float64))
        means = pyro.param("means", torch.tensor([-1.0, 2.0], dtype=torch.float64))
        with pyro.plate("data", TOTAL, subsample=x, dim=-2):
            first = pyro.sample("first", dist.Categorical(logits=logits[0]), infer={"enumerate": "parallel"})
            second = pyro.sample("second", dist.Categorical(logits=logits[first]), infer={"enumerate": "parallel"})
            with pyro.plate("values", 3, dim=-1):
                pyro.sample("x", dist.Normal(means[second], 1.0), obs=x[:, None].expand(-1, 3))

    def guide(x: Tensor) -> None:
        pass

    return model, guide, (data(),), TOTAL


def guide_enumeration_pair(how: str) -> Pair:
    """A global variable that the guide enumerates, and a local one that it samples."""

    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.tensor([-1.0, 2.0], dtype=torch.float64))
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
        with pyro.plate("data", TOTAL, subsample=x):
            z = pyro.sample("z", dist.Normal(means[k], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.4, -0.3], dtype=torch.float64))
        slope = pyro.param("slope", torch.tensor(0.5, dtype=torch.float64))
        k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": how})
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("z", dist.Normal(slope * x + k, 1.0))

    return model, guide, (data(),), TOTAL


def local_pair(prior: str, weight: float = 1.0, size: int = TOTAL) -> Pair:
    """A latent per datum with that prior, all latents under `poutine.scale`.

    "mixture" and "collapsed" are one density, with the component enumerated and summed out; "discrete" adds a latent
    without a pathwise gradient.
    """

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.1, 0.9, -0.5], dtype=torch.float64))
        means = pyro.param("means", torch.tensor([[-1.0, 0.3], [0.2, 0.8], [1.1, -0.6]], dtype=torch.float64))
        spread = pyro.param("spread", torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("data", size, subsample=x):
            with poutine.scale(scale=weight):
                shift: Any = 0.0
                if prior == "discrete":
                    shift = pyro.sample("side", dist.Bernoulli(logits=logits[0]))
                if prior == "mixture":
                    k = pyro.sample("assignment", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                    density: Any = dist.Normal(means[k], spread).to_event(1)
                elif prior == "collapsed":
                    components = dist.Normal(means, spread).to_event(1)
                    density = dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
                else:
                    density = dist.Normal(means[0], spread).to_event(1)
                z = pyro.sample("z", density)
            pyro.sample("x", dist.Normal(z.sum(-1) * spread + shift, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor([0.4, -0.3], dtype=torch.float64))
        scale = pyro.param("scale_q", torch.tensor([0.5, 0.9], dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("data", size, subsample=x), poutine.scale(scale=weight):
            if prior == "discrete":
                pyro.sample("side", dist.Bernoulli(logits=slope[0] * x))
            pyro.sample("z", dist.Normal(slope * x[:, None], scale).to_event(1))

    return model, guide, (data(),), size


def normalised_pair(network: nn.Module, latent_dim: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A network with batch normalisation between a latent per datum and the datum, registered by `pyro.module`."""

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z)[:, 0], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.ones(latent_dim, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x[:, None], 0.5).to_event(1))

    return model, guide


def gradients() -> dict[str, Tensor]:
    """Gradients of the leaves in the parameter store, which are then reset."""
    kept = {}
    for name, leaf in pyro.get_param_store().named_parameters():
        if leaf.grad is not None:
            kept[name] = leaf.grad.clone()
            leaf.grad = None
    return kept


def assert_equal_to_pyro(elbo: ELBO, pair: Pair, ordinary: bool = True) -> Terms:
    """Value and gradient equal Pyro's, per datum and from the same seed; an ordinary loss is -ELBO."""
    model, guide, batch, count = pair
    pyro.set_rng_seed(1)
    copy.copy(elbo).loss(model, guide, *batch)  # lazy parameters exist from here on
    pyro.set_rng_seed(2)
    loss = copy.copy(elbo).loss_and_grads(model, guide, *batch)
    theirs = gradients()
    pyro.set_rng_seed(2)
    terms = as_objective(elbo).backward(model, guide, *batch)
    ours = gradients()
    assert terms.loss.shape == ()
    assert terms.loss.item() * count == pytest.approx(float(loss), rel=1e-9)
    assert ours.keys() == theirs.keys()
    assert any(value.abs().sum() > 0 for value in theirs.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name] * count, value, rtol=1e-8, atol=1e-10)
    assert terms.elbo is not None
    if ordinary:
        assert terms.elbo.item() == pytest.approx(-terms.loss.item(), rel=1e-9)
    if terms.log_likelihood is not None and not terms.log_likelihood.isnan():
        assert terms.kl is not None
        assert (terms.log_likelihood - terms.kl).item() == pytest.approx(terms.elbo.item(), rel=1e-9)
    return terms


def assert_traceable(objective: Objective, pair: Pair) -> None:
    model, guide, (x,), _ = pair
    objective(model, guide, x)
    with pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.terms(model, guide, x)[:3])(x)
    other = x.flip(0)
    for batch in (x, other):
        pyro.set_rng_seed(3)
        traced = graph(batch)
        pyro.set_rng_seed(3)
        for ours, eager in zip(traced, objective.terms(model, guide, batch)[:3], strict=True):
            torch.testing.assert_close(ours, eager)
