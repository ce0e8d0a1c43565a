"""Models of the kind that Pyro's tutorials show, each with its log likelihood by hand and the dimensions of its
sites.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC
from torch import Tensor
from torch.distributions import Bernoulli, Normal, Poisson

from latentmix.inference import RecordingNUTS

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
FEATURES = torch.tensor([[0.5, -1.0], [1.0, 0.3], [-0.2, 0.8], [0.9, -0.4], [-1.2, 0.1]])
RESPONSE = torch.tensor([0.2, 1.1, -0.4, 0.9, -1.3])
COUNTIES = torch.tensor([0, 1, 2, 0, 1, 2, 2])
RADON = torch.tensor([0.8, 0.2, 1.4, 1.0, -0.1, 1.7, 1.2])
POINTS = torch.tensor([-2.1, -1.8, 1.9, 2.3, 2.0, -2.4])
COUNTS = torch.tensor([2.0, 3.0, 5.0, 4.0])
SEEN = torch.tensor([True, False, True, True, False])
IMAGES = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


def non_centred(errors, effects=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(errors)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        return pyro.sample("y", dist.Normal(theta, errors), obs=effects)


def centred(errors, effects=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("school", len(errors)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, errors), obs=effects)


def linear(x, y=None):
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1), infer={"event_dims": ["feature"]})
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def logistic(x, y=None):
    with pyro.plate("feature", x.shape[1]):
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def radon(county, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("county", 3):
        alpha = pyro.sample("alpha", dist.Normal(mu, 1.0))
    with pyro.plate("home", len(county)):
        pyro.sample("y", dist.Normal(alpha[county], 1.0), obs=y)


def mixture(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)), infer={"event_dims": ["component"]})
    with pyro.plate("component", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
    with pyro.plate("datum", len(x)):
        assignment = pyro.sample("assignment", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[assignment], 0.5), obs=x)


def poisson(counts):
    level = pyro.sample("level", dist.Normal(1.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 0.3))
    with pyro.plate("time", len(counts)):
        rate = pyro.deterministic("rate", (level + slope * torch.arange(len(counts))).exp())
        pyro.sample("y", dist.Poisson(rate), obs=counts)


def masked(x, y, seen):
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)), poutine.mask(mask=seen), poutine.scale(scale=2.0):
        pyro.sample("y", dist.Normal(beta * x, 0.7), obs=y)


def hidden_markov(y):
    rates = pyro.sample("rates", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    state = 0
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(torch.tensor([[0.8, 0.2], [0.3, 0.7]])[state]))
        pyro.sample(f"y_{t}", dist.Normal(rates[state], 1.0), obs=y[t])


def autoencoder(images):
    weight = pyro.param("weight", torch.tensor([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]]))
    with pyro.plate("image", len(images)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"event_dims": ["latent"]})
        pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=images, infer={"event_dims": ["pixel"]})


def encoder(images):
    weight = pyro.param("encoder", torch.tensor([[0.3, -0.1], [0.2, 0.5], [-0.4, 0.1]]))
    with pyro.plate("image", len(images)):
        pyro.sample("z", dist.Normal(images @ weight, 0.8).to_event(1))


@dataclass(frozen=True)
class Example:
    """A model with data; `log_likelihood` gives the density of each datum at a draw by PyTorch's distributions."""

    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    log_likelihood: Callable[[dict[str, Tensor]], Tensor]
    dims: dict[str, tuple[str, ...]]
    observed: str = "y"
    scale: float = 1.0
    deterministic: dict[str, Callable[[dict[str, Tensor]], Tensor]] = field(default_factory=dict)


def _mixture_log_likelihood(draw):
    return torch.logsumexp(draw["weights"].log() + Normal(draw["locs"], 0.5).log_prob(POINTS[:, None]), -1)


EXAMPLES = {
    "eight schools, non-centred": Example(
        non_centred,
        (ERRORS, EFFECTS),
        lambda draw: Normal(draw["mu"] + draw["tau"] * draw["eta"], ERRORS).log_prob(EFFECTS),
        {"mu": (), "tau": (), "eta": ("school",), "theta": ("school",), "y": ("school",)},
        deterministic={"theta": lambda draw: draw["mu"] + draw["tau"] * draw["eta"]},
    ),
    "eight schools, centred": Example(
        centred,
        (ERRORS, EFFECTS),
        lambda draw: Normal(draw["theta"], ERRORS).log_prob(EFFECTS),
        {"mu": (), "tau": (), "theta": ("school",), "y": ("school",)},
    ),
    "linear regression": Example(
        linear,
        (FEATURES, RESPONSE),
        lambda draw: Normal(FEATURES @ draw["beta"], draw["sigma"]).log_prob(RESPONSE),
        {"beta": ("feature",), "sigma": (), "y": ("row",)},
    ),
    "logistic regression": Example(
        logistic,
        (FEATURES, (RESPONSE > 0).float()),
        lambda draw: Bernoulli(logits=FEATURES @ draw["beta"]).log_prob((RESPONSE > 0).float()),
        {"beta": ("feature",), "y": ("row",)},
    ),
    "radon": Example(
        radon,
        (COUNTIES, RADON),
        lambda draw: Normal(draw["alpha"][COUNTIES], 1.0).log_prob(RADON),
        {"mu": (), "alpha": ("county",), "y": ("home",)},
    ),
    "mixture": Example(
        mixture,
        (POINTS,),
        _mixture_log_likelihood,
        {"weights": ("component",), "locs": ("component",), "x": ("datum",)},
        observed="x",
    ),
    "Poisson": Example(
        poisson,
        (COUNTS,),
        lambda draw: Poisson((draw["level"] + draw["slope"] * torch.arange(4)).exp()).log_prob(COUNTS),
        {"level": (), "slope": (), "rate": ("time",), "y": ("time",)},
        deterministic={"rate": lambda draw: (draw["level"] + draw["slope"] * torch.arange(4)).exp()},
    ),
    "masked and scaled": Example(
        masked,
        (FEATURES[:, 0], RESPONSE, SEEN),
        lambda draw: torch.where(SEEN, Normal(draw["beta"] * FEATURES[:, 0], 0.7).log_prob(RESPONSE), 0.0),
        {"beta": (), "y": ("row",)},
        scale=2.0,
    ),
}


def run(model, *args, kernel=RecordingNUTS, draws=5, warmup=4, chains=1, seed=1, **options):
    """A short MCMC, in this process."""
    pyro.set_rng_seed(seed)
    if issubclass(kernel, pyro.infer.NUTS):
        options.setdefault("max_tree_depth", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more chains than processors
        mcmc = MCMC(
            kernel(model, **options), num_samples=draws, warmup_steps=warmup, num_chains=chains, disable_progbar=True
        )
        mcmc.run(*args)
    return mcmc
