"""A VAE as one writes it in Pyro, trained by `SVI.step` on minibatches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.infer import SVI, Trace_ELBO
from pyro.optim.optim import PyroOptim
from torch import Tensor

from latentmix.experiments.benchmarks.svi.cases import LEARNING_RATE, Case
from latentmix.experiments.benchmarks.svi.contestants import Turn
from latentmix.experiments.benchmarks.svi.handwritten import Network
from latentmix.inference.isolation import isolated

__all__ = ["run"]


def run(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """`SVI.step` with Pyro's Adam, its `Trace_ELBO` and its validation of arguments, all as they are by default."""
    if not turn():
        return {}
    latent_dim = case.architecture.latent_dim
    with isolated(seed=0):
        network = Network(case.architecture)

        def model(x: Tensor) -> None:
            pyro.module("decoder", network.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), latent_dim), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=network.decoder(z)).to_event(3), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", network.encoder)
            loc, log_variance = network.encoder(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1))

        svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": LEARNING_RATE}), Trace_ELBO())
        x, size = torch.from_numpy(data), case.batch_size
        more = True
        while more:
            loss = 0.0
            order = torch.randperm(len(x))
            for step in range(case.steps):
                loss += svi.step(x[order[step * size : (step + 1) * size]])
            more = turn()
    return {"loss": loss / (case.steps * size)}
