"""Divergences between distributions over a latent."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

__all__ = ["kl_per_dimension"]


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Kullback-Leibler divergence KL(q, p) of products of Normals, by dimension.

    Args:
        q: The posterior, of batch shape `batch_shape`.
        p: The prior, of a batch shape that broadcasts to it.

    Returns:
        A `batch_shape x D` tensor in nats, whose sum over `D` is the divergence; None where q or p is not a product
        of Normals.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from latentmix.inference.objectives.divergences import kl_per_dimension
        >>> q = dist.Normal(torch.tensor([0.0, 2.0]), 1.0).to_event(1)
        >>> kl_per_dimension(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
        tensor([0., 2.])
    """
    events = len(q.event_shape)
    factors: list[Any] = []
    for distribution in (q, p):
        while isinstance(distribution, Independent):
            distribution = distribution.base_dist
        if not isinstance(distribution, dist.Normal):
            return None
        factors.append(distribution)
    kl: Tensor = kl_divergence(*factors)
    kl = kl.expand(q.batch_shape + q.event_shape)
    return kl.flatten(-events) if events else kl[..., None]
