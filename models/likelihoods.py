"""Likelihoods p(x given z): from the decoder's output to a distribution over the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

import pyro.distributions as dist
from torch import Tensor, nn

__all__ = ["Bernoulli", "Likelihood"]

Support = Literal["binary", "unit_interval", "real"]


class Likelihood(nn.Module, ABC):
    """Maps the decoder's output to a distribution over x, independent over the values of x.

    Attributes:
        outputs: Decoder outputs per value of x.
        support: The data that this is a density for: `"binary"` (0 and 1), `"unit_interval"`, or `"real"`.
    """

    outputs: ClassVar[int] = 1
    support: ClassVar[Support]

    @abstractmethod
    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Give the distribution over x.

        Args:
            outputs: A `batch_shape x shape x outputs` tensor, as a `Decoder` gives.

        Returns:
            A distribution whose batch and event shape together are `batch_shape x shape`.
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """Mean of x: a `batch_shape x shape` tensor from a `batch_shape x shape x outputs` tensor."""

    def check(self, x: Tensor) -> None:
        """Refuse data for which this is no density.

        Args:
            x: A tensor of data, any shape.

        Raises:
            ValueError: If a value is NaN or infinite, or lies outside the support.
        """
        name = type(self).__name__
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected finite data for {name}; got NaN or infinite values.")
        if self.support == "binary" and not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                f"Expected data of zeros and ones for {name}; got values between {x.min():.4g} and {x.max():.4g} "
                "that are neither: binarise them, or use a likelihood for grey values."
            )
        if self.support == "unit_interval" and not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"Expected data in [0, 1] for {name}; got values between {x.min():.4g} and {x.max():.4g}.")


@final
class Bernoulli(Likelihood):
    r"""Black or white pixels, :math:`p(x \mid z) = \prod_i \mathrm{Bern}(x_i \mid \sigma(f_i(z)))`.

    The decoder gives logits (Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.1). Grey
    values are not in its support: binarise them first.

    Example:
        >>> import torch
        >>> from latentmix.models import Bernoulli
        >>> likelihood = Bernoulli()
        >>> likelihood.mean(torch.zeros(2, 1, 4, 4, 1)).unique()
        tensor([0.5000])
    """

    support = "binary"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return dist.Bernoulli(logits=outputs[..., 0])

    def mean(self, outputs: Tensor) -> Tensor:
        """See `Likelihood.mean`."""
        return outputs[..., 0].sigmoid()
