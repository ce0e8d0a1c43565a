"""Priors p(z) over the latent of a VAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.networks import check_positive

__all__ = ["Prior", "StandardNormal"]


class Prior(nn.Module, ABC):
    """A distribution over z that may have parameters of its own.

    Args:
        latent_dim: Length of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_positive(latent_dim=latent_dim)
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """Give the distribution over z: batch shape `()`, event shape `(latent_dim,)`."""

    def sample(self, name: str) -> Tensor:
        """Sample z as a Pyro site; a prior with more sites than z overrides this.

        Args:
            name: Name of the site of z.

        Returns:
            A `plate_shape x latent_dim` tensor.
        """
        z: Tensor = pyro.sample(name, self())
        return z


@final
class StandardNormal(Prior):
    r"""The isotropic prior :math:`p(z) = \mathcal N(z \mid 0, I)` (Kingma and Welling, 2014, section 3).

    Args:
        latent_dim: Length of z.

    Example:
        >>> from latentmix.models import StandardNormal
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`."""
        return dist.Normal(self.loc, self.scale).to_event(1)
