"""Families of distributions over z, conditioned on an encoder's features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["ConditionalDistribution", "DiagonalNormal", "Family"]


class ConditionalDistribution(nn.Module, ABC):
    """A module that maps features to a distribution over z."""

    @abstractmethod
    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """Give q(z given features).

        Args:
            features: A `batch_shape x features` tensor.

        Returns:
            A distribution of batch shape `batch_shape` and event shape `(latent_dim,)`.
        """

    @abstractmethod
    def mean(self, features: Tensor) -> Tensor:
        """Mean of q(z given features): a `batch_shape x latent_dim` tensor."""


class Family(ABC):
    """A choice of family; it holds no weights, so that one object serves any number of guides."""

    @abstractmethod
    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """Make the layers that turn `features` features into a distribution over `latent_dim` values."""


@final
@dataclass(frozen=True)
class DiagonalNormal(Family):
    r"""The mean-field family :math:`q(z \mid x) = \mathcal N(z \mid \mu(x), \mathrm{diag}\,\sigma^2(x))`.

    One linear layer gives the mean, another the logarithm of the variance (Kingma and Welling, 2014, appendix C.2).

    Example:
        >>> import torch
        >>> from latentmix.guides import DiagonalNormal
        >>> q = DiagonalNormal().build(features=8, latent_dim=2)
        >>> q(torch.zeros(5, 8)).batch_shape
        torch.Size([5])
    """

    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """See `Family.build`."""
        return _DiagonalNormal(features, latent_dim)


class _DiagonalNormal(ConditionalDistribution):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        scale = torch.exp(0.5 * self.log_variance(features))
        return dist.Normal(self.loc(features), scale).to_event(1)

    def mean(self, features: Tensor) -> Tensor:
        loc: Tensor = self.loc(features)
        return loc
