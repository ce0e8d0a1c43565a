"""Draws of a guide of a mixture, and their log-densities under the guide and under the model."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributions import biject_to

from latentmix.inference.isolation import isolated
from latentmix.models.mixture.model import MixtureModel

__all__ = ["draws_of_guide", "log_jacobian", "log_prior"]

Sites = dict[str, Tensor]


def draws_of_guide(guide: AutoGuide, model: MixtureModel, like: Tensor, draws: int, seed: int) -> tuple[Sites, Tensor]:
    """Independent draws of a guide, as one chain, and their log-densities.

    Args:
        guide: A guide of the model's globals with a density.
        model: The model.
        like: A `1 x D` tensor on the model's device.
        draws: Number of draws, `S`.
        seed: Their seed.

    Returns:
        The sites, `1 x S` in front of their shapes, and their `1 x S` log-densities, nats, in the sites' own values.
    """
    with isolated(seed=seed, validation=False), torch.no_grad(), pyro.plate("draws", draws, dim=-2):
        trace = poutine.trace(guide).get_trace(like)
        trace.compute_log_prob()
    nodes: dict[str, Any] = dict(trace.nodes)
    sites = {name: nodes[name]["value"].detach().reshape(1, draws, *shape) for name, shape in model.shapes.items()}
    terms = [node["log_prob"] for node in nodes.values() if node["type"] == "sample" and "log_prob" in node]
    of_draws = [term.detach().double().expand(draws, 1).reshape(1, draws) for term in terms if term.ndim]
    return sites, torch.stack(of_draws).sum(0)


def log_prior(model: MixtureModel, sites: Sites) -> Tensor:
    """Log-density of sites, of any batch shape, under the priors of a model; zero of flat ones."""
    priors = model.priors(sites["means"])
    return torch.stack([prior.log_prob(sites[name]) for name, prior in priors.items()]).sum(0)


def log_jacobian(model: MixtureModel, sites: Sites) -> Tensor:
    """Log-Jacobian of sites, of any batch shape, by their unconstrained values under the maps that Pyro chooses."""
    batch = sites["weights"].ndim - 1
    terms = []
    for name, prior in model.priors(sites["means"]).items():
        transform = biject_to(prior.support)
        term = transform.log_abs_det_jacobian(transform.inv(sites[name]), sites[name])
        terms.append(sum_rightmost(term, term.ndim - batch))
    return torch.stack(terms).sum(0)
