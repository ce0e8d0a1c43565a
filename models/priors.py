"""Priors p(z) over the latent of a VAE."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.arguments import check_positive
from latentmix.models.pretrained import Part

__all__ = ["Prior", "StandardNormal", "StudentT"]


class Prior(nn.Module, Part):
    """Distribution over z, with or without parameters.

    A subclass fills `forward`; one with more sites than z overrides `sample`.

    Args:
        latent_dim: Length of z.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_positive(latent_dim=latent_dim)
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """Give the distribution over z: batch shape `()`, event shape `(latent_dim,)`."""

    def sample(self, name: str) -> Tensor:
        """Sample z as a Pyro site.

        Args:
            name: Name of the site of z.

        Returns:
            A `plate_shape x latent_dim` tensor.

        Raises:
            ValueError: If the distribution has another batch or event shape than `forward` promises.
        """
        prior = self()
        if prior.batch_shape or prior.event_shape != (self.latent_dim,):
            raise ValueError(
                f"Expected {type(self).__name__} to give batch shape () and event shape ({self.latent_dim},), as "
                f"to_event(1) makes it; got {tuple(prior.batch_shape)} and {tuple(prior.event_shape)}."
            )
        z: Tensor = pyro.sample(name, prior)
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


@final
class StudentT(Prior):
    r"""Heavy tails in every direction, :math:`p(z) = \prod_d t_\nu(z_d)`.

    It shrinks outlying latents less than a normal prior does (Abiri and Ohlsson, *Variational auto-encoders with
    Student's t-prior*, 2019). The location is 0 and the scale 1; the variance is :math:`\nu / (\nu - 2)`, infinite for
    :math:`\nu \le 2`.

    Args:
        latent_dim: Length of z.
        df: Degrees of freedom :math:`\nu`.

    Raises:
        ValueError: If `df` is not a finite number above zero.

    Example:
        >>> from latentmix.models import StudentT
        >>> StudentT(3, df=4.0)().variance
        tensor([2., 2., 2.])
    """

    loc: Tensor

    def __init__(self, latent_dim: int, df: float = 5.0) -> None:
        super().__init__(latent_dim)
        if not 0 < df < math.inf:
            raise ValueError(f"Expected a finite df > 0 for StudentT; got {df}.")
        self.df = float(df)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`."""
        return dist.StudentT(self.df, self.loc).to_event(1)

    def extra_repr(self) -> str:
        return f"{self.latent_dim}, df={self.df:g}"
